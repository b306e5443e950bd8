"""Shard a model's weights over ranks (FSDP2): each rank keeps a part and gathers a layer's weights while it needs them.

Zhao et al., PyTorch FSDP, arXiv:2304.11277, in the form of `torch.distributed.fsdp.fully_shard`: a group of parameters
for each decoder block and one for the rest. Gradients are summed over data ranks, never averaged, because every rank
has divided by the taught tokens of the whole step.

Not everything is sharded. What trains and is small (adapters, norm weights) stays whole on every rank, and its
gradients go through the one flat all-reduce of parallel/reduce.py (docs/decisions/0015-strategies.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from whet.parallel.mesh import Layout


@dataclass(frozen=True, slots=True)
class Sharding:
    """The sharded groups of a model; of a model that is whole on every rank, nothing here does anything."""

    groups: tuple[FSDPModule, ...] = ()
    """the decoder blocks, then the root"""
    num_replicas: int = 1

    def before_pass(self, *, is_last: bool) -> None:
        """Between replicas, gradients travel only in the last pass of a step; between shards in every one.

        To keep whole gradients until the last pass would take the memory that sharding is there to save.
        """
        if self.num_replicas > 1:
            for group in self.groups:
                group.set_requires_all_reduce(is_last, recurse=False)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All weights on every rank meanwhile, so that ranks may call the model a different number of times."""
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
    root: nn.Module, layout: Layout, *, blocks: Sequence[nn.Module], whole: Collection[nn.Parameter],
    gathered_dtype: torch.dtype | None = None, methods: Sequence[str] = (),
) -> Sharding:  # fmt: skip
    """Shard the parameters of `blocks` and of the rest of `root`, in place; all ranks must call it.

    Parameters become DTensors. `whole` stay plain tensors on every rank. Blocks gather in `gathered_dtype` (None: the
    parameters' own). `methods` of `root` besides `forward` that gather its own group's weights too.
    """
    if not layout.is_sharded:
        return Sharding()
    assert layout.mesh is not None
    mesh = layout.mesh["replica", "shard"] if layout.num_replicas > 1 else layout.mesh["shard"]
    stays = set(whole)
    for block in blocks:
        policy = MixedPrecisionPolicy(
            param_dtype=gathered_dtype, reduce_dtype=_wide(block, stays), cast_forward_inputs=False
        )
        fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=stays)
    policy = MixedPrecisionPolicy(reduce_dtype=_wide(root, stays), cast_forward_inputs=False)
    fully_shard(root, mesh=mesh, mp_policy=policy, ignored_params=stays)
    for name in methods:
        register_fsdp_forward_method(root, name)
    groups = tuple(module for module in (*blocks, root) if isinstance(module, FSDPModule))
    for group in groups:
        group.set_gradient_divide_factor(1.0)
    return Sharding(groups=groups, num_replicas=layout.num_replicas)


def _wide(module: nn.Module, ignored: Collection[Tensor]) -> torch.dtype:
    """Gradients are summed in float32 or wider."""
    dtypes = [p.dtype for p in module.parameters() if p not in ignored]
    return torch.promote_types(dtypes[0], torch.float32) if dtypes else torch.float32
