"""One run per folder: an advisory lock that the operating system drops when the process ends, however it ends.

    {"process": 71, "started": "8123456", "boot": "0c9f...", "host": "node7", "job": "slurm 4711", "since": "..."}

The lock decides among the processes of one machine: a killed owner has lost it, a stopped one (SIGSTOP) has not. Not
every file system carries it to other machines, so its file says who has the folder, and a claim that was not given back
is judged: taken over where its process is known to be gone, refused where this machine cannot know.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from whet.children import start_of
from whet.errors import StorageError

NAME = ".lock"
_MOST_BYTES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Which process has the folder."""

    process: int
    started: str
    """ticks since its machine started; empty where the kernel does not tell. A later process of this number has
    others."""
    boot: str
    """of its machine's present uptime; empty where the kernel does not tell"""
    host: str
    job: str
    """the scheduler's, which starts a job again only when it has ended; empty without one"""
    since: str
    """for people: by the clock of the wall"""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


@contextmanager
def locked(run_folder: Path, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Hold the folder for this process; StorageError names the process that has it, or may have it.

    `say` is told when the folder is taken over from a process that is gone.
    """
    handle = _open(run_folder / NAME)
    try:
        _take(handle, run_folder)
        if (left := _read(handle)) is not None:
            _refuse_living(left, _own_claim(), run_folder)
            say(f"{left} ended without giving the folder back; it is taken over")
        _write(handle, run_folder)
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o664)
    except OSError as error:
        raise StorageError(
            f"the lock file cannot be opened ({error.strerror})",
            where=str(path),
            mend="remove it, or choose another `output`",
        ) from error


def _take(handle: int, run_folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StorageError(
            f"another run is working in this folder ({_read(handle) or 'another process'})",
            where=str(run_folder),
            mend="wait for it, or give this run another `output`",
        ) from error
    except OSError as error:
        raise StorageError(
            f"the folder cannot be locked ({error.strerror})",
            where=str(run_folder),
            mend="choose an `output` on a file system that knows locks",
        ) from error


def _refuse_living(left: Claim, own: Claim, run_folder: Path) -> None:
    """StorageError unless the process that left its claim is known to be gone; the lock is ours already."""
    mend = "wait for it, or give this run another `output`"
    is_of_this_boot = bool(left.boot) and left.boot == own.boot
    if is_of_this_boot and left.process != own.process and left.started:
        if start_of(left.process) != left.started:
            return
        # alive without the lock: this file system only pretends to lock
    elif is_of_this_boot or left.host == own.host or (left.job and left.job == own.job):
        return  # ours; the machine was started anew; or the scheduler ended the job before it started it again
    else:
        mend = (
            f"this machine cannot know whether it still runs: look on {left.host}; if it is gone, remove "
            f"{run_folder / NAME} and give the same command again"
        )
    raise StorageError(f"another run is working in this folder ({left})", where=str(run_folder), mend=mend)


def _own_claim() -> Claim:
    return Claim(
        process=os.getpid(),
        started=start_of(os.getpid()),
        boot=_boot(),
        host=os.uname().nodename,
        job=_job(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _job() -> str:
    for name, scheduler in (("SLURM_JOB_ID", "slurm"), ("TORCHELASTIC_RUN_ID", "torchrun")):
        if (job := os.environ.get(name, "none")) != "none":
            return f"{scheduler} {job}"
    return ""


def _read(handle: int) -> Claim | None:
    """Whose claim stands in the file; None when there is none, or it is torn or of an earlier whet."""
    try:
        document = json.loads(os.pread(handle, _MOST_BYTES, 0))
        return Claim(**{f.name: document[f.name] for f in fields(Claim)})
    except (ValueError, KeyError, TypeError):
        return None


def _write(handle: int, run_folder: Path) -> None:
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(asdict(_own_claim())).encode() + b"\n", 0)
    except OSError as error:
        raise StorageError(
            f"the folder cannot be claimed ({error.strerror})",
            where=str(run_folder / NAME),
            mend="free some space, or choose another `output`",
        ) from error


def is_held(run_folder: Path) -> bool:
    """Whether some process holds the folder. Asks for the lock and gives it back at once, so ask rarely."""
    try:
        handle = os.open(run_folder / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system that knows no locks
    finally:
        os.close(handle)
    return False
