"""What checkpoints are called and which are there. Free of torch, so that a run folder is looked at in milliseconds."""

from __future__ import annotations

from pathlib import Path

PREFIX = "checkpoint-"
BEST = "checkpoint-best"


def checkpoint_folder(run_folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lives."""
    return run_folder / f"{PREFIX}{step}"


def list_steps(run_folder: Path) -> list[int]:
    """Steps of all checkpoint-N folders, newest first, whole or not. Order is by step, never by file time."""
    steps = []
    for path in run_folder.glob(f"{PREFIX}*"):
        number = path.name.removeprefix(PREFIX)
        if number.isdigit() and path.is_dir() and not path.is_symlink():
            steps.append(int(number))
    return sorted(steps, reverse=True)
