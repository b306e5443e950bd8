"""Shard a model's weights over ranks (FSDP2): each rank keeps a part and gathers a layer's weights while it needs them.

Zhao et al., PyTorch FSDP, arXiv:2304.11277, in the form of `torch.distributed.fsdp.fully_shard`: a group of parameters
for each decoder block and one for the rest. Gradients are summed over data ranks, never averaged, because every rank
has divided by the taught tokens of the whole step; the sum is taken in float32 or wider.

Not everything is sharded. What trains and is small (adapters, norm weights) stays whole on every rank, and its
gradients go through the one flat all-reduce of parallel/reduce.py (docs/decisions/0015-strategies.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from whet.parallel.mesh import Layout

_Pass = TypeVar("_Pass")


@dataclass(frozen=True, slots=True)
class Sharding:
    """The sharded groups of a model; of a model that is whole on every rank, nothing here does anything."""

    groups: tuple[FSDPModule, ...] = ()
    """of each decoder block, then of the rest"""
    num_replicas: int = 1

    def in_turn(self, passes: Sequence[_Pass]) -> Iterator[_Pass]:
        """The passes of a step, all ranks equally many. Gradients travel between shards in every one, else whole ones
        would have to be kept; between replicas in the last."""
        for number, each in enumerate(passes, start=1):
            if self.num_replicas > 1:
                for group in self.groups:
                    group.set_requires_all_reduce(number == len(passes), recurse=False)
            yield each

    @contextmanager
    def together(self) -> Iterator[None]:
        """For passes without a backward pass, equally many on all ranks; afterwards each holds its part alone."""
        try:
            yield
        finally:
            for group in self.groups:
                group.reshard()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All weights on every rank meanwhile, so that each may call the model as often as it likes; no gradients."""
        for group in self.groups:
            group.set_reshard_after_forward(False, recurse=False)
            group.unshard()
        try:
            yield
        finally:
            for group in self.groups:
                group.set_reshard_after_forward(group is not self.groups[-1], recurse=False)
                group.reshard()


def wrap(
    root: nn.Module, layout: Layout, *, blocks: Sequence[nn.Module], whole: Collection[Tensor],
    device: torch.device, gathered_dtype: torch.dtype | None = None, methods: Sequence[str] = (),
) -> Sharding:  # fmt: skip
    """Shard the parameters of `blocks` and of the rest of `root` in place and bring all to `device`; all ranks call it.

    Parameters become DTensors, those of a block one after the other, so `root` may lie in the host's memory. `whole`
    stay plain tensors on every rank. Matrices of blocks are gathered in `gathered_dtype` (None: their own). `methods`
    of `root` are called in place of its `forward`.
    """
    if not layout.is_sharded:
        return Sharding()
    assert layout.mesh is not None
    mesh = layout.mesh["replica", "shard"] if layout.num_replicas > 1 else layout.mesh["shard"]
    stays = {parameter for parameter in whole if isinstance(parameter, nn.Parameter)}
    for parameter in stays:
        parameter.data = parameter.data.to(device)
    for module in (*blocks, root):
        policy = MixedPrecisionPolicy(
            param_dtype=None if module is root else gathered_dtype,
            reduce_dtype=_wide(p for p in module.parameters() if p not in stays),
            cast_forward_inputs=False,
        )
        fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=stays)
    for name in methods:
        register_fsdp_forward_method(root, name)
    groups = tuple(module for module in (*blocks, root) if isinstance(module, FSDPModule))
    for group in groups:
        group.set_gradient_divide_factor(1.0)
        # gloo cannot multiply while it sums, not even by one
        group.set_force_sum_reduction_for_comms(True)
    return Sharding(groups=groups, num_replicas=layout.num_replicas)


def _wide(parameters: Iterator[Tensor]) -> torch.dtype:
    """Wide enough for the sum of gradients."""
    dtype = torch.float32
    for parameter in parameters:
        dtype = torch.promote_types(parameter.dtype, dtype)
    return dtype
