"""An export is whole or absent: written and proved in a draft folder, renamed when all of it went well."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from whet.atomic import file_mode, sync_file
from whet.errors import StorageError


@contextmanager
def draft_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its name when the block ends well and is removed when it does not.

    StorageError when something is there already, or when the disk refuses.
    """
    refuse_existing(target)
    draft = target.with_name(f"{_beginning(target)}{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(target)
        draft.mkdir()
        yield draft
        for path in draft.rglob("*"):
            if path.is_file():
                path.chmod(file_mode())
            sync_file(path)
        if target.is_dir():
            target.rmdir()  # empty, or refuse_existing would have spoken
        draft.rename(target)
        sync_file(target.parent)
    except (OSError, SafetensorError) as error:
        if isinstance(error, StorageError) or not _is_of_the_disk(error):
            raise
        raise StorageError(
            f"could not be written ({error})",
            where=str(target),
            mend="free space on that disk, or choose another --output; nothing was left there",
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _beginning(target: Path) -> str:
    """Of the names of this machine's drafts."""
    return f".{target.name}.{os.uname().nodename}."


def _remove_left(target: Path) -> None:
    """Remove what exports of this target left that were killed; one that is at work keeps its own."""
    for left in target.parent.glob(f"{glob.escape(_beginning(target))}*.tmp"):
        process = left.name.removeprefix(_beginning(target)).removesuffix(".tmp")
        if not process.isdigit() or (Path(f"/proc/{process}").exists() and int(process) != os.getpid()):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)


def refuse_existing(target: Path) -> None:
    """StorageError unless `target` is absent or an empty folder."""
    if target.is_symlink():
        raise StorageError("is a symbolic link", where=str(target), mend="name the real folder as --output")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise StorageError("exists already", where=str(target), mend="remove it, or choose another --output")


def _is_of_the_disk(error: OSError | SafetensorError) -> bool:
    """A failed write, not one of whet's errors that are OSErrors too (a hub or a peer)."""
    return isinstance(error, SafetensorError) or type(error).__module__ == "builtins"
