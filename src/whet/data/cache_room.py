"""Room for tokens: their cache stays below WHET_CACHE_GB gigabytes (20), and what was used longest ago goes first.

    tokens/KEY/        the tokens of one source
    tokens/KEY.draft/  the same, being written; whoever died over it left it
    tokens/KEY.lock    held while KEY is looked for or written
    tokens/KEY.used    held, shared, by everyone who reads KEY; its time is when that began

Nothing that a living process reads or writes is removed: only who gets both locks alone may. The kernel releases the
locks of the dead. Where a file system knows no locks, nothing is removed at all.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from whet.errors import RecipeError

VARIABLE = "WHET_CACHE_GB"
DEFAULT_GB = 20.0
_log = logging.getLogger(__name__)
_DRAFT, _LOCK, _USED = ".draft", ".lock", ".used"


def limit_bytes() -> float:
    """What all tokens together may take; RecipeError where WHET_CACHE_GB is no number. `inf` stands for no limit."""
    said = os.environ.get(VARIABLE, "").strip()
    try:
        gigabytes = float(said) if said else DEFAULT_GB
    except ValueError:
        gigabytes = -1.0
    if not gigabytes >= 0:
        raise RecipeError(
            f"{VARIABLE} must be a number of gigabytes, 0 or more (found {said!r})",
            mend=f"unset it ({DEFAULT_GB:g} GB), or write e.g. {VARIABLE}=50",
        )
    return gigabytes * 1e9


def hold(folder: Path, reader: object) -> None:
    """Keep `folder` from being removed as long as `reader` lives. Call with KEY.lock held; OSError if that fails."""
    path = folder.with_name(folder.name + _USED)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o664)
    weakref.finalize(reader, os.close, descriptor)
    os.utime(path)
    with suppress(OSError):  # a file system without locks, where nothing is removed
        fcntl.flock(descriptor, fcntl.LOCK_SH)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """Tokens of one source on the disk."""

    folder: Path
    num_bytes: int
    last_used: int


def make_room(tokens: Path, *, written: Path, most_bytes: float) -> list[str]:
    """Remove drafts of dead writers, then tokens until all fit; returns the names. `written` stays in any case."""
    removed = [draft.name for draft in _drafts(tokens, written) if _remove(draft, draft.name.removesuffix(_DRAFT))]
    kept = sorted(_kept(tokens), key=lambda each: (each.last_used, each.folder.name))
    total = sum(each.num_bytes for each in kept)
    for each in kept:
        if total <= most_bytes:
            break
        if each.folder != written and _remove(each.folder, each.folder.name):
            total -= each.num_bytes
            removed.append(each.folder.name)
    if removed:
        _log.info("removed from %s: %s", tokens, ", ".join(removed))
    return removed


def _drafts(tokens: Path, written: Path) -> list[Path]:
    """Half-written ones, but for the caller's own."""
    return [path for path in sorted(tokens.glob(f"*{_DRAFT}")) if path.name != written.name + _DRAFT]


def _kept(tokens: Path) -> Iterator[_Kept]:
    for folder in tokens.iterdir():
        if folder.suffix or folder.is_symlink() or not folder.is_dir():
            continue
        used = folder.with_name(folder.name + _USED)
        with suppress(FileNotFoundError):  # another process makes room, too
            num_bytes = sum(file.lstat().st_size for file in folder.iterdir())
            # tokens of earlier versions have no such file
            last_used = (used if used.exists() else folder).stat().st_mtime_ns
            yield _Kept(folder=folder, num_bytes=num_bytes, last_used=last_used)


def _remove(folder: Path, key: str) -> bool:
    """Remove `folder` unless somebody reads or writes it; whether it is gone."""
    with ExitStack() as stack:
        # in this order: readers take the second lock while they hold the first
        if not all(stack.enter_context(_alone(folder.with_name(key + lock))) for lock in (_LOCK, _USED)):
            return False
        try:
            shutil.rmtree(folder)
            folder.with_name(key + _USED).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s cannot be removed (%s)", folder, error.strerror)
            return False
        return True


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold the lock `path` if nobody else does, without waiting; whether it is held."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o664)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
