"""Weights & Biases: files in `<run folder>/logs/wandb` for `wandb sync`; sent at once where the recipe says so.

Nothing but numbers, name, tags and the recipe is handed over: no output of the terminal, no code, no list of packages,
no description of the machine. A continued run goes on as the same run, with the steps that it has not been told of.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from whet.tracking.names import numbers_of_eval, numbers_of_step
from whet.tracking.protocol import TrackedRun
from whet.tracking.told import Notes, Told
from whet.types import StepRecord

if TYPE_CHECKING:
    import wandb

_STEP = "train/global_step"
_SETTINGS = {
    "console": "off", "silent": True, "symlink": False, "disable_git": True, "disable_code": True,
    "x_disable_meta": True, "x_disable_machine_info": True, "x_disable_stats": True, "x_save_requirements": False,
    "init_timeout": 15, "login_timeout": 5, "finish_timeout": 6,
}  # fmt: skip
"""seconds below what background.py waits at the start and at the end"""


class WandbTracker:
    """Tracker for Weights & Biases; needs the package wandb, else `start` raises ImportError."""

    def __init__(self) -> None:
        self._run: wandb.Run | None = None
        self._tracked: TrackedRun | None = None
        self._notes = Notes(Path())
        self._told = Told()

    def start(self, run: TrackedRun) -> None:
        """Begin a run, or go on with the one that is noted in `logs/wandb.jsonl`."""
        logs = run.folder / "logs"
        self._tracked, self._notes = run, Notes(logs / "wandb.jsonl")
        known, self._told = self._notes.read()
        # nothing but the run itself is sent anywhere, and no log lies outside the run folder
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_CACHE_DIR", str(logs / "wandb" / "cache"))
        self._open(known, run.name)

    def log_step(self, record: StepRecord) -> None:
        """One row; none for a step that it has."""
        if self._told.differs(record.step, record.loss):
            self._begin_another(record.step)
        if self._told.has_step(record.step):
            return
        self._notes.note_step(record.step, record.loss)
        self._log(record.step, numbers_of_step(record))

    def log_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row; none for an evaluation that it has."""
        if self._told.has_eval(step):
            return
        self._notes.note_eval(step)
        self._log(step, numbers_of_eval(metrics))

    def close(self) -> None:
        """Finish the run; a second call does nothing."""
        run, self._run = self._run, None
        if run is not None:
            run.finish()

    def _begin_another(self, step: int) -> None:
        assert self._tracked is not None, "start() comes first"
        self.close()
        self._told = Told()
        self._open(None, f"{self._tracked.name} from step {step}")

    def _open(self, known: str | None, name: str) -> None:
        assert self._tracked is not None, "start() comes first"
        try:
            import wandb
        except ImportError as error:
            raise ImportError("wandb is not installed (pip install 'whet[wandb]')") from error
        run_id = known or secrets.token_hex(4)
        logs = self._tracked.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self._tracked.project,
            name=None if known else name,
            id=run_id,
            resume="allow" if known else None,
            dir=str(logs),
            tags=self._tracked.tags,
            config=dict(self._tracked.config),
            allow_val_change=True,
            mode=_mode(is_online=self._tracked.is_online),
            settings=wandb.Settings(**cast("dict[str, Any]", _SETTINGS)),
        )
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP)
        if known is None:
            self._notes.note_run(run_id)

    def _log(self, step: int, numbers: Mapping[str, float]) -> None:
        assert self._run is not None, "start() comes first"
        self._run.log({_STEP: step, **numbers})


def _mode(*, is_online: bool) -> Literal["online", "offline", "disabled", "shared"]:
    """`WANDB_MODE` where it is set, else what the recipe says."""
    asked = os.environ.get("WANDB_MODE", "")
    if asked in ("online", "offline", "disabled", "shared"):
        return cast("Literal['online', 'offline', 'disabled', 'shared']", asked)
    return "online" if is_online else "offline"
