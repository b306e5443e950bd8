"""Which checkpoints stay on the disk."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from whet.checkpoint.names import checkpoint_folder, list_steps
from whet.checkpoint.save import remove_checkpoint, storage_error
from whet.errors import StorageError

_log = logging.getLogger(__name__)


def prune(run_folder: Path, *, keep: int) -> list[int]:
    """Remove all but the newest `keep` checkpoints by step; returns the steps removed. What cannot be removed stays.

    Called after a new checkpoint is whole, and later ones were set aside when the run began (`set_aside_later`), so
    the newest is whole at every instant.
    """
    removed = []
    folder = run_folder
    try:
        for step in list_steps(run_folder)[keep:]:
            folder = checkpoint_folder(run_folder, step)
            remove_checkpoint(folder)
            removed.append(step)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        # the newer ones are whole: no reason to stop a run, and the next save tries again
        _log.warning("%s could not be removed and takes up room: %s", folder, error.strerror or error)
    return removed


def set_aside_later(run_folder: Path, *, step: int) -> Path | None:
    """Move checkpoints of steps after `step` into `superseded-1`, `-2`, ...; returns that folder, if one was needed.

    The run goes on from `step`. A later checkpoint, damaged or of an abandoned continuation, would otherwise be
    found as the newest after the next interruption, and `prune` would keep it in place of a whole one.
    """
    later = [s for s in list_steps(run_folder) if s > step]
    if not later:
        return None
    number = 1
    while (target := run_folder / f"superseded-{number}").exists():
        number += 1
    try:
        target.mkdir()
        for s in later:
            folder = checkpoint_folder(run_folder, s)
            folder.rename(target / folder.name)
    except OSError as error:
        raise storage_error(error, target) from error
    return target


def remove_leftovers(run_folder: Path) -> list[str]:
    """Remove temporary folders and files of writes that a crash cut off; returns their names.

    StorageError where the disk does not let go of one.
    """
    names = []
    for path in sorted(run_folder.glob(".*.tmp")):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            raise StorageError(
                f"what an interrupted write left cannot be removed ({error.strerror or error})",
                where=str(path),
                mend="remove it yourself, or choose another `output`",
            ) from error
        names.append(path.name)
    return names
