"""The user's cache folder: where it is, one writer at a time, and SHA-256 sums that are not computed twice."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whet.errors import StorageError
from whet.json_text import read_json

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 22
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def cache_folder() -> Path:
    """`$WHET_CACHE`, else `$XDG_CACHE_HOME/whet`, else `~/.cache/whet`; without a home, a private temporary folder."""
    if own := os.environ.get("WHET_CACHE"):
        return Path(own).expanduser().absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if Path(xdg).is_absolute():
        return Path(xdg) / "whet"
    if home := os.environ.get("HOME"):
        return Path(home) / ".cache" / "whet"
    folder = Path(tempfile.gettempdir()) / f"whet-cache-{os.getuid()}"
    _make_private(folder)
    _log.warning("HOME is not set, so what is prepared is kept in %s; set WHET_CACHE to choose another folder", folder)
    return folder


def keep_compiled_code_private() -> None:
    """Give torch's compiler a folder that nobody else may write, unless the user has chosen one.

    It unpickles and runs what it finds there, and its own place is a folder of /tmp whose name anybody could have
    taken. StorageError where the folder is somebody else's.
    """
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        folder = make_folder(cache_folder()) / "inductor"
        _make_private(folder)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def _make_private(folder: Path) -> None:
    """Temporary folders are shared: somebody else may have put this name there to feed us files."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise StorageError(
            "this folder belongs to somebody else or can be written by others",
            where=str(folder),
            mend="set WHET_CACHE to a folder of your own",
        )


def make_folder(folder: Path) -> Path:
    """Create a cache folder with its parents; StorageError says how to choose another place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def cannot_write(path: Path, error: OSError) -> StorageError:
    """The StorageError for a failed write below the cache folder."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space(path, needed_bytes=None)
    return StorageError(
        f"cannot be written ({error.strerror or error})",
        where=str(path),
        mend="set WHET_CACHE to a folder that you can write",
    )


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Refuse before the work starts what would fail for lack of space in the middle of it."""
    if shutil.disk_usage(folder).free < needed_bytes:
        raise no_space(folder, needed_bytes=needed_bytes)


def no_space(path: Path, *, needed_bytes: int | None) -> StorageError:
    """The StorageError for a full disk, with what is needed (where known) and what is there."""
    folder = next(parent for parent in (path, *path.parents) if parent.exists())
    free = f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB are free"
    needed = f"{needed_bytes / 1e6:,.0f} MB are needed, " if needed_bytes is not None else ""
    return StorageError(
        f"no space left: {needed}{free}",
        where=str(path),
        mend="free some space, or set WHET_CACHE (HF_HOME for models from the hub) to a larger disk",
    )


@contextmanager
def one_writer(lock_path: Path) -> Iterator[None]:
    """Hold `lock_path` exclusively; a second process waits. The kernel releases it when its holder dies."""
    make_folder(lock_path.parent)
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
    except OSError as error:
        raise cannot_write(lock_path, error) from error
    try:
        _lock(descriptor, lock_path)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, lock_path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.warning("another process is preparing %s; waiting for it", lock_path.stem)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        # Some cluster file systems know no locks. Work done twice is still right: results are renamed into place whole.
        if error.errno not in _NO_LOCKS_HERE:
            raise


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, remembered by path, size, modification time (ns) and inode in the cache folder."""
    status = path.stat()
    location = str(path.absolute())
    state = [location, status.st_size, status.st_mtime_ns, status.st_ino]
    memo_path = cache_folder() / "sha256" / hashlib.sha256(location.encode()).hexdigest()[:32]
    try:
        memo = read_json(memo_path.read_bytes())
        if memo["state"] == state:
            return str(memo["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing remembered, or not readable: the sum is computed
    digest = digest_of(path)
    _remember(memo_path, json.dumps({"state": state, "sha256": digest}))
    return digest


def digest_of(path: Path) -> str:
    """SHA-256 of a file, computed now."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _remember(memo_path: Path, text: str) -> None:
    try:
        memo_path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=memo_path.parent, prefix=f"{memo_path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).replace(memo_path)
    except OSError as error:
        _log.warning("the SHA-256 of a weight file cannot be remembered in %s (%s)", memo_path.parent, error.strerror)
