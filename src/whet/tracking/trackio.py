"""Trackio: a database in `<run folder>/logs/trackio`, or in the folder that TRACKIO_DIR names; never sent from here."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.tracking.names import EVAL_SECONDS, LOSS
from whet.tracking.news import NewsTracker
from whet.tracking.protocol import TrackedRun
from whet.tracking.told import Told


class TrackioTracker(NewsTracker):
    """Tracker for Trackio; needs the package trackio."""

    name = "trackio"
    can_be_asked = True

    def __init__(self) -> None:
        super().__init__()
        self._opened: Any = None

    def _prepare(self, logs: Path) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(logs.absolute() / "trackio"))  # read when trackio is imported
        _library()

    def _open(self, run: TrackedRun, name: str) -> str:
        self._opened = _init(run, name, resume="never")
        return str(self._opened.name)

    def _go_on(self, run: TrackedRun, known: str) -> Told:
        rows = _library().SQLiteStorage.get_logs(run.project, known)
        self._opened = _init(run, known, resume="must")
        losses = {row["step"]: row[LOSS] for row in rows if LOSS in row}
        return Told(losses, [row["step"] for row in rows if EVAL_SECONDS in row])

    def _send(self, step: int, numbers: Mapping[str, float]) -> None:
        self._opened.log(dict(numbers), step=step)

    def _end(self) -> None:
        self._opened.finish()


def _init(run: TrackedRun, name: str, *, resume: str) -> Any:
    config = {**run.config, "tags": list(run.tags)}
    return _library().init(
        project=run.project, name=name, config=config, resume=resume, embed=False, auto_log_gpu=False,
        auto_log_cpu=False,
    )  # fmt: skip


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
