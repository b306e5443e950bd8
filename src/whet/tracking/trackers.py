"""All trackers of a run behind one: metrics.jsonl always and at once, others by name and in the background.

None of them can stop the run or slow it down.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from whet.errors import RecipeError
from whet.tracking.background import BackgroundTracker
from whet.tracking.jsonl import JsonlTracker
from whet.tracking.mlflow import MlflowTracker
from whet.tracking.protocol import TrackedRun, Tracker
from whet.tracking.tensorboard import TensorboardTracker
from whet.tracking.trackio import TrackioTracker
from whet.tracking.wandb import WandbTracker
from whet.types import StepRecord

TRACKERS: dict[str, Callable[[], Tracker]] = {
    "jsonl": JsonlTracker,
    "tensorboard": TensorboardTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "trackio": TrackioTracker,
}

_log = logging.getLogger(__name__)


class TrackerGroup:
    """Itself a Tracker: passes every call on; a member that raises OSError is switched off.

    Switching off costs one warning and one event line in metrics.jsonl. A step is never lost for the others.
    """

    def __init__(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in TRACKERS]
        if unknown:
            raise RecipeError(f"unknown tracker {unknown[0]!r}", mend=f"use one of {', '.join(sorted(TRACKERS))}")
        self._jsonl = JsonlTracker()
        self._members: dict[str, Tracker] = {"jsonl": self._jsonl}
        self._members |= {name: BackgroundTracker(TRACKERS[name]()) for name in names if name != "jsonl"}
        self._step: int | None = None

    def start(self, run: TrackedRun) -> None:
        """Start every tracker."""
        self._step = run.resume_step
        self._each(lambda tracker: tracker.start(run))

    def log_step(self, record: StepRecord) -> None:
        """Pass one step on."""
        self._step = record.step
        self._each(lambda tracker: tracker.log_step(record))

    def log_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        """Pass one evaluation on."""
        self._each(lambda tracker: tracker.log_eval(step, metrics))

    def log_event(self, step: int, text: str) -> None:
        """A sentence for metrics.jsonl and the report's list of incidents; other trackers have no place for it.

        Before `start` there is no file yet and nothing is written: an early error must not be hidden by another.
        """
        if self._step is not None and "jsonl" in self._members:
            self._guarded("jsonl", lambda _: self._jsonl.log_event(step, text))

    def close(self) -> None:
        """Close every tracker, metrics.jsonl last so that it hears of the others' failures."""
        for name in reversed(list(self._members)):
            self._guarded(name, lambda tracker: tracker.close())

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name in list(self._members):
            self._guarded(name, call)

    def _guarded(self, name: str, call: Callable[[Tracker], None]) -> None:
        try:
            call(self._members[name])
        except OSError as error:
            del self._members[name]
            sentence = f"tracker {name} is switched off: {error}"
            _log.warning(sentence)
            self.log_event(self._step or 0, sentence)
