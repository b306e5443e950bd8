"""Which rectangular block of a tensor a rank holds, and which rank writes it.

Two things cut tensors, and one may come after the other: ranks that share the work of each layer hold a `Cut` as a
plain tensor; ranks that share one copy of the state hold a DTensor's local part, of the whole or of a cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What a tensor (or DTensor) is of the whole: all of it along every dimension but one."""

    dim: int
    start: int
    size: int
    """of the whole, along `dim`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What this rank holds of a tensor. Invariant: offsets + tensor.shape <= shape."""

    tensor: Tensor
    """a plain one, on the memory of the rank's own values"""
    offsets: tuple[int, ...]
    """where it begins in the whole, by dimension"""
    shape: tuple[int, ...]
    """of the whole"""


@torch.no_grad()
def block_of(tensor: Tensor, cut: Cut | None = None) -> Block:
    """This rank's block of the tensor that `tensor` is, or is a `cut` of. Waits for nobody."""
    local, offsets, shape = tensor, [0] * tensor.ndim, list(tensor.shape)
    if isinstance(tensor, DTensor):
        # the method that torch.distributed.checkpoint asks a tensor by
        (chunk,) = tensor.__create_chunk_list__()
        local, offsets = tensor.to_local(), list(chunk.offsets)
    if cut is not None:
        offsets[cut.dim] += cut.start
        shape[cut.dim] = cut.size
    return Block(tensor=local.detach(), offsets=tuple(offsets), shape=tuple(shape))


def own_blocks(
    tensors: Mapping[str, Tensor], cuts: Mapping[str, Cut], *, is_first_of_data: bool, is_first_of_tensor: bool
) -> dict[str, Block]:
    """The blocks that this rank writes, so that one rank writes each number of each tensor. Waits for nobody.

    `is_first_of_data`: the first of the ranks that see different rows; `is_first_of_tensor`: of those that share the
    work of each layer.
    """
    blocks = {}
    for name, tensor in tensors.items():
        cut = cuts.get(name)
        is_first_copy = _is_first_copy(tensor) if isinstance(tensor, DTensor) else is_first_of_data
        if is_first_copy and (cut is not None or is_first_of_tensor):
            block = block_of(tensor, cut)
            if block.tensor.numel():
                blocks[name] = block
    return blocks


def _is_first_copy(tensor: DTensor) -> bool:
    """Whether this rank is the first along every dimension of the mesh that only repeats the tensor."""
    place = tensor.device_mesh.get_coordinate()
    assert place is not None, "a rank holds no tensor of a mesh that it is not in"
    return all(at == 0 for at, placement in zip(place, tensor.placements, strict=True) if placement.is_replicate())
