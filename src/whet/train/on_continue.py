"""What a continuation passed over, accepted or found missing, told as incidents of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from whet.json_text import objects_of_lines
from whet.tracking.jsonl import FILE_NAME as METRICS
from whet.train.callbacks import QuietCallback
from whet.train.incidents import Incident

if TYPE_CHECKING:
    from whet.train.loop import Training


class OnContinue(QuietCallback):
    """Tells them when training starts, once the trackers listen."""

    name = "continue"

    def __init__(self, run_folder: Path, *, ignored: Sequence[str], changes: Sequence[str]) -> None:
        """`ignored`: a sentence for each checkpoint that was passed over; `changes`: what was accepted, in words."""
        self._run_folder, self._ignored, self._changes = run_folder, ignored, changes

    def on_start(self, run: Training, step: int) -> None:
        after = f"continued after step {step}"
        for sentence in self._ignored:
            incident = Incident(step=step, kind="checkpoint_ignored", text=f"{after}: {sentence}")
            run.callbacks.on_incident(incident)
        if self._changes:
            text = f"{after} with accepted changes: {'; '.join(self._changes)}"
            facts = {"changes": list(self._changes)}
            run.callbacks.on_incident(Incident(step=step, kind="accepted_changes", text=text, facts=facts))
        if run.env.is_main and (num_lost := step - len(_logged_steps(self._run_folder / METRICS, at_most=step))) > 0:
            text = f"{after}: {METRICS} has no lines of {num_lost} earlier steps, so totals and charts leave them out"
            run.callbacks.on_incident(Incident(step=step, kind="log_lines_lost", text=text))


def _logged_steps(path: Path, *, at_most: int) -> set[int]:
    """The steps up to `at_most` that the log has lines of."""
    if not path.is_file():
        return set()
    # the tracker counts unreadable lines and takes them out
    steps = (record.get("step") for record in objects_of_lines(path.read_bytes()) if record.get("kind") == "step")
    return {number for number in steps if isinstance(number, int) and 1 <= number <= at_most}
