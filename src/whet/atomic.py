"""Write a small file whole or not at all: temporary file, fsync, rename, fsync of the folder.

Imports nothing but errors, so that every package may use it. A reader sees the old file or the new one, never
half of one, also after a crash or a power loss (the rename is durable only once the folder itself is synced).
"""

from __future__ import annotations

import errno
import os
import tempfile
from io import BufferedWriter
from pathlib import Path

from whet.errors import StorageError


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8, creating its folder; raises StorageError and leaves no partial file."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, creating its folder; raises StorageError and leaves no partial file."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(file_mode())
        temporary.replace(path)
        sync_file(path.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise _storage_error(path, "written", error) from error


def append_bytes(path: Path, content: bytes) -> None:
    """Add `content` to the end of `path`; on the disk when this returns. A crash may leave a part of it."""
    try:
        with open_to_append(path) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise _storage_error(path, "written", error) from error


def open_to_append(path: Path) -> BufferedWriter:
    """`path` for adding to its end, made if it is not there. StorageError, also where a link has that name: what it
    points at is somebody's file."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.fdopen(os.open(path, flags, 0o666), "ab")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StorageError("is a symbolic link: not followed", where=str(path), mend="remove it") from error
        raise _storage_error(path, "written", error) from error


def remove(path: Path) -> None:
    """Remove a file if it is there; raises StorageError when it may not be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _storage_error(path, "removed", error) from error


def _storage_error(path: Path, verb: str, error: OSError) -> StorageError:
    return StorageError(
        f"could not be {verb}: {error.strerror or error}",
        where=str(path),
        mend="free space on that disk, or choose a folder you may write to",
    )


def file_mode() -> int:
    """Rights of a new file as the user's umask allows; mkstemp and safetensors make files private (0600) instead.

    Read where the kernel shows it: setting it in order to learn it would change the files of other threads.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        mask = int(next(line for line in status.splitlines() if line.startswith("Umask:")).split()[1], 8)
    except (OSError, StopIteration):
        mask = os.umask(0o077)
        os.umask(mask)
    return 0o666 & ~mask


def sync_file(path: Path) -> None:
    """Force a file's (or folder's) contents to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
