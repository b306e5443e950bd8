"""One run per folder: an advisory lock that the operating system drops when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whet.errors import StorageError

NAME = ".lock"


@contextmanager
def locked(run_folder: Path) -> Iterator[None]:
    """Hold the folder for this process; StorageError names the process that has it."""
    handle = _open(run_folder / NAME)
    try:
        _take(handle, run_folder)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
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
        holder = os.pread(handle, 100, 0).decode(errors="replace").strip() or "another process"
        raise StorageError(
            f"another run is working in this folder ({holder})",
            where=str(run_folder),
            mend="wait for it, or give this run another `output`",
        ) from error
    except OSError as error:
        raise StorageError(
            f"the folder cannot be locked ({error.strerror})",
            where=str(run_folder),
            mend="choose an `output` on a file system that knows locks",
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
