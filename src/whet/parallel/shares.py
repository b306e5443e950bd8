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
from torch.distributed.tensor import DTensor

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
    """This rank's places among `size`: as many as any other rank's, or one less."""
    return range(size * group.rank // group.size, size * (group.rank + 1) // group.size)


def own_part(name: str, tensor: Tensor, group: TensorGroup) -> Tensor:
    """What this rank holds of the whole `tensor`: a view."""
    dim = _dim_of(name, tensor)
    if dim is None:
        return tensor
    own = own_range(tensor.shape[dim], group)
    return tensor.narrow(dim, own.start, len(own))


def own_parts(whole: Mapping[str, Tensor], group: TensorGroup) -> dict[str, Tensor]:
    """This rank's parts of whole tensors, by name: what `full_tensors` takes together."""
    return {name: own_part(name, tensor, group) for name, tensor in whole.items()}


def full_tensors(named: Mapping[str, Tensor], group: TensorGroup) -> dict[str, Tensor]:
    """The whole tensors of everyone's parts, on every rank; all ranks must call it with the same names in one order.

    A part that is itself sharded over data ranks (a DTensor of FSDP2) is made whole there first.
    """
    return dict(each_full_tensor(named, group))


@torch.no_grad()
def each_full_tensor(named: Mapping[str, Tensor], group: TensorGroup) -> Iterator[tuple[str, Tensor]]:
    """`full_tensors` one after the other, for tensors that do not fit into memory together."""
    for name, tensor in named.items():
        part = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()
        dim = _dim_of(name, part)
        yield name, part if dim is None else _joined(part, dim, group)


def _dim_of(name: str, tensor: Tensor) -> int | None:
    """A moment's count of steps belongs to a split tensor and is not split."""
    dim = split_dim(name)
    return dim if dim is not None and dim < tensor.ndim else None


def _joined(part: Tensor, dim: int, group: TensorGroup) -> Tensor:
    sizes = group.gather(torch.tensor([part.shape[dim]], device=part.device))[:, 0].tolist()
    filled = part.transpose(0, dim)
    if (num_missing := max(sizes) - len(filled)) > 0:
        filled = torch.cat([filled, filled.new_zeros(num_missing, *filled.shape[1:])])
    parts = [each[:size] for each, size in zip(group.gather(filled), sizes, strict=True)]
    return torch.cat(parts).transpose(0, dim).contiguous()
