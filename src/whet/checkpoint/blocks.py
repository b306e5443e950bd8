"""What one rank holds of a tensor that is spread over ranks (a DTensor): which block it is, and which rank writes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A rectangular part of a tensor."""

    tensor: Tensor
    offsets: tuple[int, ...]
    """where it begins in the whole, by dimension"""


def is_spread(tensors: Iterable[Tensor]) -> bool:
    """Whether a rank holds but a part of any of them."""
    return any(isinstance(tensor, DTensor) for tensor in tensors)


@torch.no_grad()
def own_blocks(tensors: Mapping[str, Tensor], *, rank: int) -> dict[str, Block]:
    """The blocks that this rank writes, so that each element of each tensor is written by one rank. Waits for nobody."""
    blocks = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            if rank == 0:
                blocks[name] = Block(tensor=tensor.detach(), offsets=(0,) * tensor.ndim)
        elif _is_writer(tensor) and (local := tensor.detach().to_local()).numel():
            blocks[name] = Block(tensor=local, offsets=_offsets(tensor))
    return blocks


@torch.no_grad()
def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor whole. All ranks must call it with the same names in the same order, and all get all."""
    return {name: t.detach().full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()}


@torch.no_grad()
def spread_like(whole: Tensor, target: Tensor) -> Tensor:
    """A tensor that every rank holds whole, laid out over the ranks as `target` is. Waits for nobody."""
    if not isinstance(target, DTensor):
        return whole
    sizes = target.to_local().shape
    block = tuple(slice(o, o + size) for o, size in zip(_offsets(target), sizes, strict=True))
    local = whole[block].to(target.device, copy=True).contiguous()
    return DTensor.from_local(
        local, target.device_mesh, target.placements, run_check=False, shape=target.shape, stride=target.stride()
    )


def _offsets(tensor: DTensor) -> tuple[int, ...]:
    # the method that torch.distributed.checkpoint asks a tensor by
    (chunk,) = tensor.__create_chunk_list__()
    return tuple(chunk.offsets)


def _is_writer(tensor: DTensor) -> bool:
    """Of ranks that hold the same block: the first along every dimension of the mesh that repeats it, in the mesh that
    rank 0 is in where several meshes hold the same tensor."""
    mesh = tensor.device_mesh
    place = mesh.get_coordinate()
    if place is None or not bool((mesh.mesh == 0).any()):
        return False
    return all(at == 0 for at, placement in zip(place, tensor.placements, strict=True) if placement.is_replicate())
