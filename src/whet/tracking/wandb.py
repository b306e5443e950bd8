"""Weights & Biases: files in `<run folder>/logs/wandb` for `wandb sync`; sent at once where the recipe says so.

Nothing but numbers, name, tags and the recipe is handed over: no output of the terminal, no code, no list of packages,
no description of the machine.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from whet.tracking.news import NewsTracker
from whet.tracking.protocol import TrackedRun

if TYPE_CHECKING:
    import wandb

_STEP = "train/global_step"
_SETTINGS = {
    "console": "off", "silent": True, "symlink": False, "disable_git": True, "disable_code": True,
    "x_disable_meta": True, "x_disable_machine_info": True, "x_disable_stats": True, "x_save_requirements": False,
    "init_timeout": 15, "login_timeout": 5, "finish_timeout": 6,
}  # fmt: skip
"""seconds below what background.py waits at the start and at the end"""


class WandbTracker(NewsTracker):
    """Tracker for Weights & Biases; needs the package wandb."""

    name = "wandb"
    can_be_asked = False

    def __init__(self) -> None:
        super().__init__()
        self._opened: wandb.Run | None = None

    def _prepare(self, logs: Path) -> None:
        # nothing but the run itself is sent anywhere, and no log lies outside the run folder
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_CACHE_DIR", str(logs / "wandb" / "cache"))

    def _open(self, run: TrackedRun, name: str) -> str:
        run_id = secrets.token_hex(4)
        self._opened = _init(run, name=name, id=run_id, resume=None)
        return run_id

    def _go_on(self, run: TrackedRun, known: str) -> None:
        self._opened = _init(run, name=None, id=known, resume="allow")

    def _send(self, step: int, numbers: Mapping[str, float]) -> None:
        assert self._opened is not None, "start() comes first"
        self._opened.log({_STEP: step, **numbers})

    def _end(self) -> None:
        assert self._opened is not None, "start() comes first"
        self._opened.finish()


def _init(run: TrackedRun, **which: Any) -> wandb.Run:
    """Open a run of the service in `run`'s folder."""
    try:
        import wandb
    except ImportError as error:
        raise ImportError("wandb is not installed (pip install 'whet[wandb]')") from error
    opened = wandb.init(
        project=run.project,
        dir=str(run.folder / "logs"),
        tags=run.tags,
        config=dict(run.config),
        allow_val_change=True,
        mode=_mode(is_online=run.is_online),
        settings=wandb.Settings(**cast("dict[str, Any]", _SETTINGS)),
        **which,
    )
    opened.define_metric(_STEP)
    opened.define_metric("*", step_metric=_STEP)
    return opened


def _mode(*, is_online: bool) -> Literal["online", "offline", "disabled", "shared"]:
    """`WANDB_MODE` where it is set, else what the recipe says."""
    asked = os.environ.get("WANDB_MODE", "")
    if asked in ("online", "offline", "disabled", "shared"):
        return cast("Literal['online', 'offline', 'disabled', 'shared']", asked)
    return "online" if is_online else "offline"
