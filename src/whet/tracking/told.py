"""What a tracker that takes nothing back has been told already, so that a continued run tells it no step twice.

A run that goes on after a kill makes the steps behind its checkpoint again, with the same losses: they are passed over.
Where a loss is another one (the run went back and was changed), the tracker begins a second run of its own there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from whet import atomic
from whet.json_text import objects_of_lines

_SAME = 1e-6
"""relative: a service may keep fewer digits"""


class Told:
    """Losses by step and the steps of evaluations that a tracker has."""

    def __init__(self, losses: Mapping[int, float] | None = None, evals: Iterable[int] = ()) -> None:
        self._losses, self._evals = dict(losses or {}), set(evals)

    def has_step(self, step: int) -> bool:
        """Whether it was told of `step`."""
        return step in self._losses

    def has_eval(self, step: int) -> bool:
        """Whether it was told of the evaluation after `step`."""
        return step in self._evals

    def differs(self, step: int, loss: float) -> bool:
        """Whether it was told of another loss at `step`."""
        had = self._losses.get(step, loss)
        return not (math.isclose(had, loss, rel_tol=_SAME) or (math.isnan(had) and math.isnan(loss)))


class Notes:
    """A file beside the run's logs: the name of the tracker's run, and what it was told, a line each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[str | None, Told]:
        """The run that was noted last, and what it was told since; None where there is none."""
        run: str | None = None
        losses: dict[int, float] = {}
        evals: set[int] = set()
        content = self._path.read_bytes() if self._path.is_file() else b""
        for line in objects_of_lines(content):
            match line:
                case {"run": str(name)}:
                    run, losses, evals = name, {}, set()
                case {"step": int(step), "loss": loss}:
                    losses[step] = float(loss) if isinstance(loss, int | float) else math.nan
                case {"eval": int(step)}:
                    evals.add(step)
        return run, Told(losses, evals)

    def note_run(self, name: str) -> None:
        """From now on the lines are about this run."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._append({"run": name})

    def note_step(self, step: int, loss: float) -> None:
        """It is being told of this step."""
        self._append({"step": step, "loss": loss if math.isfinite(loss) else None})

    def note_eval(self, step: int) -> None:
        """It is being told of the evaluation after this step."""
        self._append({"eval": step})

    def _append(self, line: dict[str, object]) -> None:
        atomic.append_bytes(self._path, json.dumps(line).encode("ascii") + b"\n")
