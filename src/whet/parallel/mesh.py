"""How the ranks of a run share its work: which of them see which rows, and which hold which part of the weights.

Ranks are numbered so that those that talk most are neighbours (ranks of one node):

    rank = (replica x num_shards + shard) x num_tensor_ranks + tensor_rank

    replica        copies of the whole state, over which gradients are summed
    shard          parts of one copy's state; each rank gathers what it lacks, layer by layer (FSDP)
    tensor_rank    parts of each layer's work; the ranks of one tensor group see the same rows

Every (replica, shard) sees rows of its own: it is one data rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from whet.errors import RecipeError
from whet.parallel.env import Env, limit_waits
from whet.parallel.shards import Strategy, count_shards, divisors
from whet.recipe.schema import Parallel

DIMENSIONS = ("replica", "shard", "tensor")
"""names of the mesh's dimensions, all of them always there: `layout.mesh["tensor"]`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Place of this process in the mesh. Invariant: world_size = num_replicas x num_shards x num_tensor_ranks."""

    strategy: Strategy = "replicate"
    world_size: int = 1
    data_rank: int = 0
    """which rows this rank sees; the same for all ranks of a tensor group"""
    num_data_ranks: int = 1
    tensor_rank: int = 0
    num_tensor_ranks: int = 1
    num_shards: int = 1
    """ranks (or tensor groups) that share one copy of the weights, gradients and moments"""
    mesh: DeviceMesh | None = None
    """[replica, shard, tensor]; None while every rank holds and computes everything, as a single process does"""
    data_group: dist.ProcessGroup | None = None
    """the ranks with this one's tensor rank, over which gradients and losses are summed; None: all ranks"""

    @property
    def num_replicas(self) -> int:
        return self.num_data_ranks // self.num_shards

    @property
    def is_sharded(self) -> bool:
        """Whether weights lie in parts on several ranks, between their uses."""
        return self.num_shards > 1


def layout_of(parallel: Parallel, env: Env, *, strategy: Strategy) -> Layout:
    """This rank's place, without its groups; pure. RecipeError where the ranks cannot be cut so.

    `strategy` is the recipe's, or what was chosen for `auto`.
    """
    world, tensor = env.world_size, parallel.tensor
    if world % tensor:
        raise RecipeError(
            f"{world} ranks cannot be cut into tensor groups of {tensor}",
            where="parallel.tensor",
            mend=f"one of {divisors(world)}",
        )
    num_data = world // tensor
    num_shards = count_shards(parallel, strategy, num_data_ranks=num_data, ranks_per_node=env.local_world_size)
    return Layout(
        strategy=strategy,
        world_size=world,
        data_rank=env.rank // tensor,
        num_data_ranks=num_data,
        tensor_rank=env.rank % tensor,
        num_tensor_ranks=tensor,
        num_shards=num_shards,
    )


def make_layout(parallel: Parallel, env: Env, *, strategy: Strategy, device_type: str) -> Layout:
    """This rank's place with the mesh and groups behind it. All ranks must call it, after `env.start`."""
    plain = layout_of(parallel, env, strategy=strategy)
    if plain.num_shards == 1 and plain.num_tensor_ranks == 1:
        return plain
    sizes = (plain.num_replicas, plain.num_shards, plain.num_tensor_ranks)
    mesh = init_device_mesh(device_type, sizes, mesh_dim_names=DIMENSIONS)
    data_group = None
    if plain.num_tensor_ranks > 1:
        rows = [
            list(range(tensor_rank, plain.world_size, plain.num_tensor_ranks))
            for tensor_rank in range(plain.num_tensor_ranks)
        ]
        data_group, _ = dist.new_subgroups_by_enumeration(rows)
    groups = [*(mesh.get_group(name) for name in DIMENSIONS), data_group]
    limit_waits([group for group in groups if group is not None], timeout_seconds=parallel.timeout_seconds)
    return Layout(
        strategy=plain.strategy,
        world_size=plain.world_size,
        data_rank=plain.data_rank,
        num_data_ranks=plain.num_data_ranks,
        tensor_rank=plain.tensor_rank,
        num_tensor_ranks=plain.num_tensor_ranks,
        num_shards=plain.num_shards,
        mesh=mesh,
        data_group=data_group,
    )
