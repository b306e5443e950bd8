"""Who writes what: each number of each tensor by one rank, however the mesh cuts and repeats it.

torch's fake process group plays one rank of eight after the other; blocks are found without a word to the others.
"""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from whet.checkpoint.blocks import Cut, block_of, own_blocks

NUM_REPLICAS, NUM_SHARDS, NUM_TENSOR = 2, 2, 2
SHAPES = {"even": (8, 6), "uneven": (7, 3), "fewer rows than shards": (1, 4), "vector": (5,)}


@pytest.fixture
def as_rank():
    """Be one of eight ranks: its mesh."""

    def become(rank):
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=8)
        sizes = (NUM_REPLICAS, NUM_SHARDS, NUM_TENSOR)
        return init_device_mesh("cpu", sizes, mesh_dim_names=("replica", "shard", "tensor"))

    yield become
    dist.destroy_process_group()


def sharded(tensor: torch.Tensor, mesh) -> DTensor:
    """Rows over the shards, the same in every replica, as FSDP2 has it."""
    part = torch.chunk(tensor, NUM_SHARDS)
    place = mesh.get_coordinate()[1]
    local = part[place] if place < len(part) else tensor[:0]
    return DTensor.from_local(
        local.clone(), mesh, [Replicate(), Shard(0)], run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


@pytest.mark.parametrize("is_sharded", [True, False], ids=["sharded", "whole on every rank"])
@pytest.mark.parametrize(("name", "cut_dim"), [(n, d) for n, s in SHAPES.items() for d in (None, *range(len(s)))])
def test_each_number_is_written_by_one_rank_from_its_place(as_rank, name, cut_dim, is_sharded):
    whole = torch.arange(torch.Size(SHAPES[name]).numel(), dtype=torch.float32).reshape(SHAPES[name])
    written = torch.zeros(SHAPES[name])
    for rank in range(8):
        mesh = as_rank(rank)
        replica, shard, tensor_rank = mesh.get_coordinate()
        part, cut = whole, None
        if cut_dim is not None:
            size = whole.shape[cut_dim]
            begin, end = size * tensor_rank // NUM_TENSOR, size * (tensor_rank + 1) // NUM_TENSOR
            part = whole.narrow(cut_dim, begin, end - begin).contiguous()
            cut = Cut(dim=cut_dim, start=begin, size=size)
        held = sharded(part, mesh["replica", "shard"]) if is_sharded and len(part) else part
        own = own_blocks(
            {"w": held}, {"w": cut} if cut else {}, is_first_of_data=replica == shard == 0,
            is_first_of_tensor=tensor_rank == 0,
        )  # fmt: skip
        block = block_of(held, cut)
        assert block.shape == tuple(whole.shape)
        places = tuple(slice(o, o + size) for o, size in zip(block.offsets, block.tensor.shape, strict=True))
        assert torch.equal(block.tensor, whole[places])
        written[places] += len(own)
    assert torch.equal(written, torch.ones(SHAPES[name]))


def test_a_block_is_the_memory_of_the_values_themselves(as_rank):
    parameter = torch.nn.Parameter(sharded(torch.zeros(8, 6), as_rank(3)["replica", "shard"]))
    block_of(parameter).tensor.fill_(7.0)
    assert bool((parameter.detach().to_local() == 7.0).all())
