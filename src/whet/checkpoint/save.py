"""Write a checkpoint so that it is whole or absent: temporary folder, fsync, manifest last, one rename."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from whet.atomic import file_mode, sync_file
from whet.checkpoint.manifest import NAME, write_manifest
from whet.checkpoint.names import checkpoint_folder, is_sharded
from whet.errors import StorageError

_NO_LINKS_HERE = (errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)


def write_files(
    folder: Path,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> list[Path]:
    """Write safetensors (`tensors`), JSON or text (`documents`) and `files` as they are, each synced to the disk."""
    for name, named in tensors.items():
        plain = {k: v.detach().cpu().contiguous() for k, v in named.items()}
        save_file(plain, folder / name, metadata={"format": "pt"})
    for name, document in documents.items():
        text = document if isinstance(document, str) else json.dumps(document, indent=1) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    written = [folder / name for name in (*tensors, *documents, *files)]
    for path in written:
        path.chmod(file_mode())
        sync_file(path)
    return written


def save_checkpoint(
    run_folder: Path,
    *,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> Path:
    """Write checkpoint-`step`, after the lines that tell of steps. A crash leaves the older checkpoints untouched."""
    target = checkpoint_folder(run_folder, step)
    temporary = run_folder / f".{target.name}.{os.getpid()}.tmp"
    try:
        sync_lines(run_folder)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write_files(temporary, tensors=tensors, documents=documents, files=files)
        write_manifest(temporary, step=step)
        put_in_place(temporary, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)  # so that what is free is what the next try will have
        raise storage_error(error, target, needed_bytes=_num_bytes(tensors, files)) from error
    return target


def sync_lines(run_folder: Path) -> None:
    """What the run told of its steps, line by line, is on the disk: a power loss must not take it from a checkpoint."""
    for path in sorted(run_folder.glob("*.jsonl")):
        sync_file(path)


def _num_bytes(tensors: Mapping[str, Mapping[str, Tensor]], files: Mapping[str, bytes]) -> int:
    """Of a checkpoint on the disk, but for its documents, which are small."""
    of_tensors = sum(tensor.nbytes for named in tensors.values() for tensor in named.values())
    return of_tensors + sum(map(len, files.values()))


def put_in_place(draft: Path, target: Path) -> None:
    """A draft with its manifest takes the name of the checkpoint, in place of an older one."""
    if target.exists():
        remove_checkpoint(target)
    draft.rename(target)
    sync_file(target.parent)


def copy_checkpoint(source: Path, target: Path) -> None:
    """A real folder under another name (checkpoint-best), whole or absent like the original.

    The files of several ranks are linked, not copied, where the disk can: they are never changed, and one process would
    copy what all wrote.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary, copy_function=_link if is_sharded(source) else shutil.copy2)
        for path in temporary.iterdir():
            sync_file(path)
        put_in_place(temporary, target)
    except OSError as error:
        described = storage_error(error, target)
        shutil.rmtree(temporary, ignore_errors=True)
        raise described from error


def _link(source: str, target: str) -> None:
    """Another name of the same file; a copy on a disk that has no such names."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS_HERE:
            raise
        shutil.copy2(source, target)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, manifest first, so that a crash leaves nothing that looks whole."""
    if folder.is_symlink():
        raise StorageError("is a symbolic link; whet does not follow it", where=str(folder), mend="remove the link")
    (folder / NAME).unlink(missing_ok=True)
    shutil.rmtree(folder)


def storage_error(
    error: OSError | SafetensorError, target: Path, *, needed_bytes: int | None = None
) -> StorageError:  # fmt: skip
    """The error of a write that failed, in words for users; `needed_bytes` of all that was to be written."""
    # safetensors reports a full disk as its own error type with the cause in its text
    text = str(error)
    is_full = (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in text
    if is_full:
        free = shutil.disk_usage(target.parent).free
        needed = f"{needed_bytes / 1e6:,.1f} MB are needed, " if needed_bytes is not None else ""
        has_room = needed_bytes is not None and free > needed_bytes
        why = "; a quota is used up, or the disk takes no more files" if has_room else ""
        return StorageError(
            f"no space left while saving ({needed}{free / 1e6:,.1f} MB are free{why})",
            where=str(target),
            mend="free some space and give the same command again; the older checkpoints are untouched",
        )
    if isinstance(error, StorageError):
        return error
    return StorageError(
        f"could not be saved: {text}", where=str(target), mend="check the disk; the older checkpoints are untouched"
    )
