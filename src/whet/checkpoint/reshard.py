"""Tensors of a checkpoint, whole or in blocks, read into blocks of any other shape: each rank reads what it needs.

The reader is that of torch.distributed.checkpoint's safetensors storage, and so is the search for what overlaps. Its
`load` is not called: that plans by collectives which pickle, and each rank can plan its own reading alone.
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
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from whet.checkpoint.blocks import Block
from whet.checkpoint.names import SHARDS, is_sharded
from whet.errors import StorageError


@torch.no_grad()
def load_into(folder: Path, blocks: Mapping[str, Block]) -> None:
    """Fill the memory of `blocks` from the tensors of these names in `folder`. Waits for nobody.

    StorageError when one is missing, has another shape or dtype, or is not there as a whole.
    """
    try:
        reader = HuggingFaceStorageReader(str(folder))
        stored = reader.read_metadata()
        shapes = json.loads((folder / SHARDS).read_text(encoding="utf-8"))["shapes"] if is_sharded(folder) else {}
        for name, block in blocks.items():
            _check(name, block, stored.state_dict_metadata.get(name), shapes.get(name), folder)
        planner = _BlockPlanner(blocks)
        planner.set_up_planner({}, stored)
        reader.set_up_storage_reader(stored, is_coordinator=True)
        reader.read_data(reader.prepare_local_plan(planner.create_local_plan()), planner).wait()
    except (OSError, SafetensorError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot be read: {error}", where=str(folder)) from error


class _BlockPlanner(DefaultLoadPlanner):
    """Asks for what overlaps the blocks; torch's own asks the tensors, of which a plain one says that it is whole."""

    def __init__(self, blocks: Mapping[str, Block]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._blocks = blocks

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        items = []
        for name, block in self._blocks.items():
            here = ChunkStorageMetadata(offsets=torch.Size(block.offsets), sizes=block.tensor.shape)
            stored = self.metadata.state_dict_metadata[name]
            assert isinstance(stored, TensorStorageMetadata)
            items += create_read_items_for_chunk_list(name, stored, [here])
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self._blocks[index.fqn].tensor


def _check(name: str, block: Block, stored: Any, shape: list[int] | None, folder: Path) -> None:
    """The reader takes a tensor to end where its last block ends, and leaves alone what no block covers."""
    if stored is None:
        raise StorageError(f"{name} is not in the checkpoint", where=str(folder))
    if tuple(stored.size) != tuple(shape or stored.size) or _num_stored(stored) != math.prod(stored.size):
        raise StorageError(f"{name} is not there as a whole: blocks are missing", where=str(folder))
    if tuple(stored.size) != block.shape:
        raise StorageError(f"saved {name} has shape {tuple(stored.size)}, not {block.shape}", where=str(folder))
    if stored.properties.dtype != block.tensor.dtype:
        raise StorageError(
            f"saved {name} is {stored.properties.dtype}, not {block.tensor.dtype}",
            where=str(folder),
            mend="continue with the recipe that wrote the checkpoint",
        )


def _num_stored(stored: Any) -> int:
    return sum(math.prod(chunk.sizes) for chunk in stored.chunks)
