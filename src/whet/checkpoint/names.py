"""What checkpoints and their files are called and which are there. Free of torch, so that a run folder is looked at in
milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

PREFIX = "checkpoint-"
BEST = "checkpoint-best"
SHARDS = "shards.json"
"""there in a checkpoint whose tensors all ranks wrote together, in blocks"""


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


def is_sharded(folder: Path) -> bool:
    """Whether the tensors of a checkpoint lie in blocks in the files of several ranks."""
    return (folder / SHARDS).is_file()


def shard_name(kind: Literal["weights", "optimizer"], rank: int, num_ranks: int) -> str:
    """The file of 0-based `rank`."""
    return f"{kind}-shard-{rank + 1:05}-of-{num_ranks:05}.safetensors"


def weight_shards(folder: Path) -> tuple[Path, ...]:
    """The files that hold the weights of a sharded checkpoint, without the optimizer's state."""
    return tuple(sorted(folder.glob("weights-shard-*-of-*.safetensors")))
