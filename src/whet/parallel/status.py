"""What became of each rank, in `RUN/ranks/rank-N.json`: torchrun returns 1 whatever its ranks return. No torch."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

from whet.atomic import remove, write_text
from whet.errors import InterruptedRunError, PeerLostError, StorageError, WhetError
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


def read_statuses(run_folder: Path, *, since: float = 0.0) -> list[RankStatus]:
    """In the order of the ranks; those written before `since` (seconds since 1970) and unreadable ones are left out."""
    known = {f.name for f in fields(RankStatus)}
    found = []
    for path in (run_folder / FOLDER).glob("rank-*.json"):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            status = RankStatus(**{key: value for key, value in document.items() if key in known})
        except (OSError, ValueError, TypeError, AttributeError):
            continue
        if status.time >= since:
            found.append(status)
    # an earlier launch may have had more ranks
    num_ranks = max(found, key=lambda status: status.time).world_size if found else 0
    return sorted((status for status in found if status.rank < num_ranks), key=lambda status: status.rank)


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
        self._step = 0

    def begin(self) -> None:
        """The rank runs."""
        self._before = self._path.read_bytes() if self._path.is_file() else None
        self._write(self._now)

    def reached(self, step: int) -> None:
        """`step` optimizer steps are done; the file follows every half minute."""
        self._step = step
        if time.time() - self._now.time > _REFRESH_SECONDS:
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
    try:
        # the name in parentheses may hold anything; the start is the 22nd field
        began = Path(f"/proc/{parent}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        began = ""
    return f"{socket.gethostname()} {parent} {began}".strip()
