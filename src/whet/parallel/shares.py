"""Which part of which tensor a rank holds where ranks share each layer: a table by names, and both ways through it.

| layers | W [O, I] and bias | adapter A [r, I] | adapter B [O, r] |
|---|---|---|---|
| q, k, v, gate, up: outputs split | rows | all of it | rows |
| o, down: inputs split | columns | columns | all of it |
| embedding, output head: tokens split | rows | | |
| norms | all of it | | |

A layer with split outputs is followed by one with split inputs, so nothing travels inside a block (Shoeybi et al.,
arXiv:1909.08053, section 3). Names are those of a model's parameters, of what trains, or of their moments in an
optimizer (`<parameter>.exp_avg`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from whet.parallel.tensor_group import TensorGroup

SPLIT_OUTPUTS = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"})
SPLIT_INPUTS = frozenset({"o_proj", "down_proj"})
SPLIT_TOKENS = frozenset({"embed_tokens", "lm_head"})


def split_dim(name: str) -> int | None:
    """The dimension along which the tensor of this name is split; None for one that every rank holds."""
    parts = set(name.split("."))
    if parts & SPLIT_INPUTS:
        return None if "lora_B" in parts else 1
    if parts & (SPLIT_OUTPUTS | SPLIT_TOKENS):
        return None if "lora_A" in parts else 0
    return None


def own_range(size: int, group: TensorGroup) -> range:
    """This rank's places among `size`, which the ranks divide."""
    num_own = size // group.size
    return range(num_own * group.rank, num_own * (group.rank + 1))


def own_part(name: str, tensor: Tensor, group: TensorGroup) -> Tensor:
    """What this rank holds of the whole `tensor`: a view."""
    dim = _dim_of(name, tensor)
    if dim is None:
        return tensor
    own = own_range(tensor.shape[dim], group)
    return tensor.narrow(dim, own.start, len(own))


def spread(named: Mapping[str, Tensor], tensor_mesh: DeviceMesh) -> dict[str, Tensor]:
    """Every part as the DTensor that it belongs to, in the same memory; what all ranks hold stays as it is.

    For code that writes, gathers or lays out tensors by what they say of themselves. Waits for nobody.
    """
    return {name: _spread(name, tensor, tensor_mesh) for name, tensor in named.items()}


def full_tensors(named: Mapping[str, Tensor], tensor_mesh: DeviceMesh) -> dict[str, Tensor]:
    """The whole tensors, on every rank; all ranks must call it with the same names in the same order.

    A part that is itself sharded over data ranks (FSDP2) is made whole there first.
    """
    return dict(each_full_tensor(named, tensor_mesh))


@torch.no_grad()
def each_full_tensor(named: Mapping[str, Tensor], tensor_mesh: DeviceMesh) -> Iterator[tuple[str, Tensor]]:
    """`full_tensors` one after the other, for tensors that do not fit into memory together."""
    for name, tensor in named.items():
        part = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        whole = _spread(name, part.detach(), tensor_mesh)
        yield name, whole.full_tensor() if isinstance(whole, DTensor) else whole


def _spread(name: str, part: Tensor, tensor_mesh: DeviceMesh) -> Tensor:
    dim = _dim_of(name, part)
    if dim is None:
        return part
    assert not isinstance(part, DTensor), f"{name} is sharded over data ranks too"
    return DTensor.from_local(part.detach(), tensor_mesh, [Shard(dim)], run_check=False)


def _dim_of(name: str, tensor: Tensor) -> int | None:
    """A moment's count of steps belongs to a split tensor and is not split."""
    dim = split_dim(name)
    return dim if dim is not None and dim < tensor.ndim else None
