"""Keeps the first answers of every evaluation set that the model answers while it trains, in RUN/samples.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from whet.errors import StorageError
from whet.parallel.env import Env
from whet.tracking import samples
from whet.train.callbacks import EvalRecord, QuietCallback

if TYPE_CHECKING:
    from whet.train.loop import Training


class OnAnswers(QuietCallback):
    """On rank 0; it hears answers before their step is told, and writes them when it is."""

    name = "answers"

    def __init__(self, run_folder: Path, env: Env) -> None:
        self._folder, self._is_main = run_folder, env.is_main
        self._heard: list[samples.Shown] = []
        self._run: Training | None = None

    def hear(self, answers: Sequence[samples.Shown]) -> None:
        """The first answers to a set are there."""
        self._heard += answers

    def on_start(self, run: Training, step: int) -> None:
        self._run = run
        if self._is_main:
            samples.begin(self._folder, step)

    def on_evaluated(self, record: EvalRecord) -> None:
        answers, self._heard = self._heard, []
        if not self._is_main or self._run is None:
            return
        try:
            samples.append(self._folder, record.step, answers)
        except StorageError as error:  # a full disk stops a run where it matters: at a checkpoint
            self._run.callbacks.on_event(record.step, f"answers were not kept: {error.what}")
