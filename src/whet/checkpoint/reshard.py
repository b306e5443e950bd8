"""Tensors of a checkpoint, whole or in blocks, read into tensors of any layout: each rank reads the slices it needs.

torch.distributed.checkpoint does the reading, by its safetensors reader and its planner for DTensors. Its `load` is not
called: that plans by collectives which pickle, and each rank can plan its own reading alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, HuggingFaceStorageReader

from whet.checkpoint.names import SHARDS, is_sharded
from whet.errors import StorageError


@torch.no_grad()
def load_into(folder: Path, targets: Mapping[str, Tensor]) -> None:
    """Fill `targets` (DTensors or whole tensors) from the tensors of these names in `folder`. Waits for nobody.

    StorageError when one is missing, has another shape or dtype, or is not there as a whole.
    """
    try:
        reader = HuggingFaceStorageReader(str(folder))
        stored = reader.read_metadata()
        shapes = json.loads((folder / SHARDS).read_text(encoding="utf-8"))["shapes"] if is_sharded(folder) else {}
        for name, target in targets.items():
            _check(name, target, stored.state_dict_metadata.get(name), shapes.get(name), folder)
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        planner.set_up_planner(dict(targets), stored, is_coordinator=True)
        reader.set_up_storage_reader(stored, is_coordinator=True)
        plan = planner.finish_plan(reader.prepare_local_plan(planner.create_local_plan()))
        reader.read_data(plan, planner).wait()
    except (OSError, SafetensorError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot be read: {error}", where=str(folder)) from error


def _check(name: str, target: Tensor, stored: Any, shape: list[int] | None, folder: Path) -> None:
    """The reader takes a tensor to end where its last block ends, and leaves alone what no block covers."""
    if stored is None:
        raise StorageError(f"{name} is not in the checkpoint", where=str(folder))
    if stored.size != target.shape or (shape is not None and tuple(shape) != tuple(stored.size)):
        raise StorageError(
            f"saved {name} has shape {tuple(stored.size)}, {tuple(target.shape)} is needed", where=str(folder)
        )
    if stored.properties.dtype != target.dtype:
        raise StorageError(
            f"saved {name} is {stored.properties.dtype}, {target.dtype} is needed",
            where=str(folder),
            mend="continue with the recipe that wrote the checkpoint",
        )
    if sum(math.prod(chunk.sizes) for chunk in stored.chunks) != math.prod(stored.size):
        raise StorageError(f"{name} is not there as a whole: blocks are missing", where=str(folder))
