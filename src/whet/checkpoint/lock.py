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
    handle = os.open(run_folder / NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 100).decode(errors="replace").strip() or "another process"
            raise StorageError(
                f"another run is working in this folder ({holder})",
                where=str(run_folder),
                mend="wait for it, or give this run another `output`",
            ) from error
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
        yield
    finally:
        os.close(handle)
