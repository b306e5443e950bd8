"""What became of each rank, in `RUN/ranks/rank-N.json`: torchrun returns 1 whatever its ranks return. No torch."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

from whet.atomic import remove, write_text
from whet.children import start_of
from whet.errors import InterruptedRunError, PeerLostError, StorageError, WhetError
from whet.json_text import read_json
from whet.redact import without_secrets

FOLDER = "ranks"
State = Literal["running", "finished", "interrupted", "failed"]
_REFRESH_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStatus:
    """One rank of the last launch. A rank that was killed stays `running`."""

    rank: int
    world_size: int
    state: State = "running"
    exit_code: int | None = None
    """of whet.errors; None while the rank runs"""
    error: str = ""
    """the whole message"""
    step: int = 0
    """optimizer steps done when this was written"""
    time: float = 0.0
    """when this was written, in seconds since 1970"""
    host: str = ""
    process: int = 0
    launcher: str = ""
    """torchrun's process, which starts ranks anew; empty without it"""


def status_path(run_folder: Path, rank: int) -> Path:
    return run_folder / FOLDER / f"rank-{rank}.json"


def read_statuses(run_folder: Path) -> list[RankStatus]:
    """In the order of the ranks; unreadable ones and those of an earlier launch of more ranks are left out."""
    known = {f.name for f in fields(RankStatus)}
    found = []
    for path in (run_folder / FOLDER).glob("rank-*.json"):
        try:
            document = read_json(path.read_bytes())
            status = RankStatus(**{key: value for key, value in document.items() if key in known})
        except (OSError, ValueError, TypeError, AttributeError):
            continue
        if _is_sound(status):
            found.append(status)
    # every launch has a rank 0; no clock is asked, for it may have been set back
    of_main = [status.world_size for status in found if status.rank == 0]
    num_ranks = of_main[0] if of_main else max((status.world_size for status in found), default=0)
    return sorted((status for status in found if status.rank < num_ranks), key=lambda status: status.rank)


def _is_sound(status: RankStatus) -> bool:
    """Whether every field has its type: somebody else may have written the file."""
    counts = (status.rank, status.world_size, status.step, status.process, status.exit_code or 0)
    texts = (status.error, status.host, status.launcher)
    return (
        all(type(count) is int for count in counts)
        and all(isinstance(text, str) for text in texts)
        and status.state in get_args(State)
        and isinstance(status.time, int | float)
        and math.isfinite(status.time)
    )


def is_relaunch(run_folder: Path) -> bool:
    """Whether the torchrun that started this process has started ranks in this folder before.

    Its own count leaves out rounds that begin because a machine came or went.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0:
        return True
    launcher = _launcher()
    return bool(launcher) and any(status.launcher == launcher for status in read_statuses(run_folder))


class StatusFile:
    """The file of this rank."""

    def __init__(self, run_folder: Path, *, rank: int, world_size: int) -> None:
        self._path = status_path(run_folder, rank)
        self._now = RankStatus(
            rank=rank, world_size=world_size, host=socket.gethostname(), process=os.getpid(), launcher=_launcher()
        )  # fmt: skip
        self._before: bytes | None = None
        self._written = -math.inf
        self._step = 0

    def begin(self) -> None:
        """The rank runs."""
        self._before = self._path.read_bytes() if self._path.is_file() else None
        self._write(self._now)

    def reached(self, step: int) -> None:
        """`step` optimizer steps are done; the file follows every half minute."""
        self._step = step
        if time.monotonic() - self._written > _REFRESH_SECONDS:
            with suppress(StorageError):  # a full disk stops a run where it matters: at a checkpoint
                self._write(self._now)

    def end(self, error: BaseException | None) -> None:
        """How the rank ends. A launch into the folder of a run that is at work leaves that run's file as it was."""
        text = "" if error is None else without_secrets(str(error)) or type(error).__name__
        with suppress(StorageError):
            if "another run is working in this folder" in text:
                self._restore()
                return
            code, state = _code_and_state(error)
            self._write(replace(self._now, state=state, exit_code=code, error=text))

    def _write(self, status: RankStatus) -> None:
        self._now = replace(status, step=self._step, time=time.time())
        self._written = time.monotonic()
        write_text(self._path, json.dumps(asdict(self._now), indent=1) + "\n")

    def _restore(self) -> None:
        if self._now.time == 0:
            return
        if self._before is None:
            remove(self._path)
        else:
            write_text(self._path, self._before.decode("utf-8", errors="replace"))


def _code_and_state(error: BaseException | None) -> tuple[int, State]:
    if error is None:
        return 0, "finished"
    if isinstance(error, InterruptedRunError):
        return error.exit_code, "interrupted"
    if isinstance(error, WhetError):
        return error.exit_code, "failed"
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code, "failed" if error.code else "finished"
    return 1, "failed"


def mark_lost(run_folder: Path, rank: int, error: PeerLostError) -> None:
    """How this rank ends, written by the watch because the thread that works does not answer."""
    path = status_path(run_folder, rank)
    mine = [status for status in read_statuses(run_folder) if status.rank == rank and status.process == os.getpid()]
    for status in mine:
        ended = replace(status, state="failed", exit_code=error.exit_code, error=str(error), time=time.time())
        with suppress(StorageError):
            write_text(path, json.dumps(asdict(ended), indent=1) + "\n")


def _launcher() -> str:
    """Host, process and start of the torchrun above this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    parent = os.getppid()
    return f"{socket.gethostname()} {parent} {start_of(parent)}".strip()
