"""What became of each rank, in `RUN/ranks/rank-N.json`: torchrun returns 1 whatever its children return. Free of torch."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

from whet.atomic import remove, write_text
from whet.errors import InterruptedRunError, PeerLostError, StorageError, WhetError

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


def exit_code_of(statuses: Sequence[RankStatus]) -> int | None:
    """The exit code of all ranks together; None when it is not known (no rank has said how it ended).

    A rank's own error comes before the loss that the others report, and that before an interruption.
    """
    codes = [status.exit_code for status in statuses if status.exit_code is not None]
    lost, interrupted = PeerLostError.exit_code, InterruptedRunError.exit_code
    own_errors = [code for code in codes if code not in (0, 1, lost, interrupted)]
    for code in (*own_errors, lost, interrupted, 1):
        if code in codes:
            return code
    return 0 if codes and len(codes) == len(statuses) else None


class StatusFile:
    """The file of this rank."""

    def __init__(self, run_folder: Path, *, rank: int, world_size: int) -> None:
        self._path = status_path(run_folder, rank)
        self._before = self._path.read_bytes() if self._path.is_file() else None
        self._now = RankStatus(rank=rank, world_size=world_size, host=socket.gethostname(), process=os.getpid())
        self._step = 0
        self._write(self._now)

    def reached(self, step: int) -> None:
        """`step` optimizer steps are done; the file follows every half minute."""
        self._step = step
        if time.time() - self._now.time > _REFRESH_SECONDS:
            with suppress(StorageError):  # a full disk stops a run where it matters: at a checkpoint
                self._write(self._now)

    def ended(self, error: BaseException | None) -> None:
        """How the rank ends. A launch into the folder of a run that is at work leaves that run's file as it was."""
        text = "" if error is None else str(error) or type(error).__name__
        if "another run is working in this folder" in text:
            self._restore()
            return
        code, state = _code_and_state(error)
        self._write(replace(self._now, state=state, exit_code=code, error=text))

    def _write(self, status: RankStatus) -> None:
        self._now = replace(status, step=self._step, time=time.time())
        write_text(self._path, json.dumps(asdict(self._now), indent=1) + "\n")

    def _restore(self) -> None:
        if self._before is None:
            remove(self._path)
        else:
            write_text(self._path, self._before.decode("utf-8", errors="replace"))


@contextmanager
def status_kept(run_folder: Path, *, rank: int, world_size: int) -> Iterator[StatusFile]:
    """The status file of this rank: `running` inside, and how it ended afterwards."""
    file = StatusFile(run_folder, rank=rank, world_size=world_size)
    try:
        yield file
    except BaseException as error:
        file.ended(error)
        raise
    file.ended(None)


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
