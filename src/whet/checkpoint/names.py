"""What checkpoints and their files are called and which are there. Free of torch, so that a run folder is looked at in
milliseconds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

PREFIX = "checkpoint-"
BEST = "checkpoint-best"
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
SHARDS = "shards.json"
"""there in a checkpoint whose tensors all ranks wrote together, in blocks"""


def checkpoint_folder(run_folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lives."""
    return run_folder / f"{PREFIX}{step}"


def list_steps(run_folder: Path) -> list[int]:
    """Steps of all checkpoint-N folders, newest first, whole or not. Order is by step, never by file time.

    N is written as whet writes it: `checkpoint-007` and other digits than ASCII's are somebody else's.
    """
    steps = []
    for path in run_folder.glob(f"{PREFIX}*"):
        step = step_of(path)
        if step is not None and path.is_dir() and not path.is_symlink():
            steps.append(step)
    return sorted(steps, reverse=True)


def step_of(folder: Path) -> int | None:
    """The step that a folder is named after; None where its name is no checkpoint's."""
    number = folder.name.removeprefix(PREFIX)
    return int(number) if number != folder.name and _NUMBER.fullmatch(number) else None


def is_sharded(folder: Path) -> bool:
    """Whether the tensors of a checkpoint lie in blocks in the files of several ranks."""
    return (folder / SHARDS).is_file()


def shard_name(kind: Literal["weights", "optimizer"], rank: int, num_ranks: int) -> str:
    """The file of 0-based `rank`."""
    return f"{kind}-shard-{rank + 1:05}-of-{num_ranks:05}.safetensors"


def weight_shards(folder: Path) -> tuple[Path, ...]:
    """The files that hold the weights of a sharded checkpoint, without the optimizer's state."""
    return tuple(sorted(folder.glob("weights-shard-*-of-*.safetensors")))
