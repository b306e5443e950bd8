"""Which checkpoints stay on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from whet.checkpoint.load import list_steps
from whet.checkpoint.save import PREFIX, remove_checkpoint


def prune(run_folder: Path, *, keep: int) -> list[int]:
    """Remove all but the newest `keep` checkpoints by step; returns the steps removed.

    Called after a new checkpoint is whole, so at least one verified checkpoint exists at every instant.
    """
    removed = list_steps(run_folder)[keep:]
    for step in removed:
        remove_checkpoint(run_folder / f"{PREFIX}{step}")
    return removed


def remove_leftovers(run_folder: Path) -> list[str]:
    """Remove temporary folders of saves that a crash cut off; returns their names."""
    names = []
    for path in sorted(run_folder.glob(f".{PREFIX}*.tmp")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
            names.append(path.name)
    return names
