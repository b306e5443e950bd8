"""Trackio: a database in `<run folder>/logs/trackio`, or in the folder that TRACKIO_DIR names; never sent from here.

A continued run goes on as the same run, with the steps that the database does not have.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.tracking.names import EVAL_SECONDS, LOSS, numbers_of_eval, numbers_of_step
from whet.tracking.protocol import TrackedRun
from whet.tracking.told import Notes, Told
from whet.types import StepRecord


class TrackioTracker:
    """Tracker for Trackio; needs the package trackio, else `start` raises ImportError."""

    def __init__(self) -> None:
        self._run: Any = None
        self._tracked: TrackedRun | None = None
        self._notes = Notes(Path())
        self._told = Told()

    def start(self, run: TrackedRun) -> None:
        """Begin a run, or go on with the one that is noted in `logs/trackio.jsonl`."""
        logs = run.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TRACKIO_DIR", str(logs.absolute() / "trackio"))  # read when trackio is imported
        self._tracked, self._notes = run, Notes(logs / "trackio.jsonl")
        known, _ = self._notes.read()
        trackio = _library()
        if known is not None:
            rows = trackio.SQLiteStorage.get_logs(run.project, known)
            losses = {row["step"]: row[LOSS] for row in rows if LOSS in row}
            self._told = Told(losses, [row["step"] for row in rows if EVAL_SECONDS in row])
        self._open(run.name, known)

    def log_step(self, record: StepRecord) -> None:
        """One row; none for a step that it has."""
        if self._told.differs(record.step, record.loss):
            self._begin_another(record.step)
        if not self._told.has_step(record.step):
            self._run.log(numbers_of_step(record), step=record.step)

    def log_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row; none for an evaluation that it has."""
        if not self._told.has_eval(step):
            self._run.log(numbers_of_eval(metrics), step=step)

    def close(self) -> None:
        """Write out what waits; a second call does nothing."""
        run, self._run = self._run, None
        if run is not None:
            run.finish()

    def _begin_another(self, step: int) -> None:
        assert self._tracked is not None, "start() comes first"
        self.close()
        self._told = Told()
        self._open(f"{self._tracked.name} from step {step}", None)

    def _open(self, name: str, known: str | None) -> None:
        assert self._tracked is not None, "start() comes first"
        config = {**self._tracked.config, "tags": list(self._tracked.tags)}
        self._run = _library().init(
            project=self._tracked.project, name=known or name, config=config, resume="must" if known else "never",
            embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        if known is None:
            self._notes.note_run(self._run.name)


def _library() -> Any:
    """trackio, which talks to the terminal by `print`: whet's own lines are not to be mixed with its."""
    try:
        import trackio
    except ImportError as error:
        raise ImportError("trackio is not installed (pip install 'whet[trackio]')") from error
    for name in ("trackio", "trackio.run", "trackio.utils"):
        vars(importlib.import_module(name))["print"] = _say_nothing
    return trackio


def _say_nothing(*words: object, **how: object) -> None:
    """In place of `print`."""
