"""Tells the watch where this rank is, and its status file how far it has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whet.parallel import watch
from whet.parallel.rank_files import RankFiles
from whet.train.callbacks import QuietCallback, Requests
from whet.types import StepRecord

if TYPE_CHECKING:
    from whet.train.loop import Training

_IN_WORDS = {
    "data": "data loading",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "optimizer": "the update",
    "communication": "communication",
    "save": "a checkpoint",
    "": "the work",
}


class OnWatch(QuietCallback):
    """On every rank."""

    name = "watch"

    def __init__(self, files: RankFiles | None) -> None:
        self._status = files.status if files is not None else None

    def on_start(self, run: Training, step: int) -> None:
        if (present := watch.current()) is not None:
            present.presence.phase = lambda: _IN_WORDS[run.laps.now]
            present.presence.step = step + 1
        if self._status is not None:
            self._status.reached(step)

    def after_step(self, record: StepRecord) -> Requests:
        if (present := watch.current()) is not None:
            present.presence.step = record.step + 1
        if self._status is not None:
            self._status.reached(record.step)
        return Requests()

    def on_stop(self, step: int) -> None:
        if (present := watch.current()) is not None:
            present.presence.phase, present.presence.step = _after_the_steps, 0


def _after_the_steps() -> str:
    return "the end of training"
