"""What trackers that take nothing back have in common: they are told each step once, also by a run that was continued.

A service's own file says how a run of it begins, goes on, is told numbers and ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from whet.tracking.names import numbers_of_eval, numbers_of_step
from whet.tracking.protocol import TrackedRun
from whet.tracking.told import Notes, Told
from whet.types import StepRecord


class NewsTracker(ABC):
    """Tracker whose run on the service is noted in `logs/<name>.jsonl`.

    A continued run goes on as the same run, with the steps that it has not been told of. Where a step has another loss
    than it was told, a second run begins there.
    """

    name: ClassVar[str]
    can_be_asked: ClassVar[bool]
    """whether the service says what it was told; else every step is noted in that file too"""

    def __init__(self) -> None:
        self._run: TrackedRun | None = None
        self._notes = Notes(Path())
        self._told = Told()
        self._is_open = False

    def start(self, run: TrackedRun) -> None:
        """Begin a run of the service, or go on with the one that was noted; ImportError without its package."""
        logs = run.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._run, self._notes = run, Notes(logs / f"{self.name}.jsonl")
        known, noted = self._notes.read()
        self._prepare(logs)
        if known is None:
            self._begin(run, run.name)
            return
        found = self._go_on(run, known)
        self._told = noted if found is None else found
        self._is_open = True

    def log_step(self, record: StepRecord) -> None:
        """All numbers of the step; none for a step that it has."""
        assert self._run is not None, "start() comes first"
        if self._told.differs(record.step, record.loss):
            self.close()
            self._told = Told()
            self._begin(self._run, f"{self._run.name} from step {record.step}")
        if self._told.has_step(record.step):
            return
        if not self.can_be_asked:
            self._notes.note_step(record.step, record.loss)
        self._send(record.step, numbers_of_step(record))

    def log_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        """All numbers of the evaluation; none for one that it has."""
        if self._told.has_eval(step):
            return
        if not self.can_be_asked:
            self._notes.note_eval(step)
        self._send(step, numbers_of_eval(metrics))

    def close(self) -> None:
        """End the run of the service; a second call does nothing."""
        is_open, self._is_open = self._is_open, False
        if is_open:
            self._end()

    def _begin(self, run: TrackedRun, name: str) -> None:
        self._notes.note_run(self._open(run, name))
        self._is_open = True

    @abstractmethod
    def _prepare(self, logs: Path) -> None:
        """What has to be so before the first run; ImportError without the service's package."""

    @abstractmethod
    def _open(self, run: TrackedRun, name: str) -> str:
        """Begin a run called `name`; its id, by which it can go on."""

    @abstractmethod
    def _go_on(self, run: TrackedRun, known: str) -> Told | None:
        """Open the run with this id again; what it was told, or None where the notes know."""

    @abstractmethod
    def _send(self, step: int, numbers: Mapping[str, float]) -> None:
        """Tell the open run."""

    @abstractmethod
    def _end(self) -> None:
        """Finish the open run."""
