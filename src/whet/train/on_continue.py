"""What a continuation passed over or accepted, told as incidents of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from whet.train.callbacks import QuietCallback
from whet.train.incidents import Incident

if TYPE_CHECKING:
    from whet.train.loop import Training


class OnContinue(QuietCallback):
    """Tells them when training starts, once the trackers listen."""

    name = "continue"

    def __init__(self, *, ignored: Sequence[str], changes: Sequence[str]) -> None:
        """`ignored`: a sentence for each checkpoint that was passed over; `changes`: what was accepted, in words."""
        self._ignored, self._changes = ignored, changes

    def on_start(self, run: Training, step: int) -> None:
        for sentence in self._ignored:
            text = f"continued after step {step}: {sentence}"
            run.callbacks.on_incident(Incident(step=step, kind="checkpoint_ignored", text=text))
        if self._changes:
            text = f"continued after step {step} with accepted changes: {'; '.join(self._changes)}"
            facts = {"changes": list(self._changes)}
            run.callbacks.on_incident(Incident(step=step, kind="accepted_changes", text=text, facts=facts))
