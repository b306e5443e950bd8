"""Law: what the estimator says of 70B over 64 ranks is what torch does, on the meta device with a fake process group.

No memory is allocated and nothing is sent: fake ranks, one after the other in this process, cut the model as a run
does, and the sizes of their parts are counted.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaConfig, LlamaForCausalLM

from whet.checkpoint.blocks import own_blocks
from whet.estimate.memory import FLOAT32_BYTES, Job
from whet.estimate.sharding import own_entries, own_rows, weights_of
from whet.models.families import KNOWN, shape_from_config
from whet.parallel.env import Env
from whet.parallel.mesh import DIMENSIONS, Layout, layout_of
from whet.parallel.wrap import wrap
from whet.recipe.schema import Parallel

WORLD_SIZE, PER_NODE = 64, 8
CONFIG = json.loads((Path(__file__).parents[1] / "golden" / "llama-3.1-70b.json").read_text(encoding="utf-8"))
STRATEGIES = {"fsdp": 64, "hsdp": 8}
"""strategy -> ranks that hold one copy together"""


def job(*, trains_all: bool, num_layers: int) -> Job:
    shape = KNOWN["meta-llama/Llama-3.1-70B"]
    return Job(
        num_layers=num_layers, hidden=shape.hidden, intermediate=shape.intermediate,
        query_size=shape.num_heads * shape.head_dim, key_size=shape.num_kv_heads * shape.head_dim,
        num_heads=shape.num_heads, vocab=shape.vocab, num_base=0, num_trainable=0, trains_all=trains_all,
        is_fused=False, narrow_values=0, compute_bytes=2, is_tied=shape.tie_embeddings, device="cuda",
    )  # fmt: skip


@contextmanager
def rank_of_many(rank: int, strategy: str) -> Iterator[Layout]:
    """This process as one of 64 ranks that nobody answers."""
    env = Env(rank=rank, world_size=WORLD_SIZE, local_rank=rank % PER_NODE, local_world_size=PER_NODE)
    _clear_sharding_prop_cache()  # it would hand out the places of the rank before, whose mesh is equal
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=WORLD_SIZE)
    try:
        plain = layout_of(Parallel(strategy=strategy), env, strategy=strategy)
        # as `make_layout` does it, whose time limits a fake group does not know
        sizes = (plain.num_replicas, plain.num_shards, plain.num_tensor_ranks)
        yield replace(plain, mesh=init_device_mesh("cpu", sizes, mesh_dim_names=DIMENSIONS))
    finally:
        dist.destroy_process_group()


def build(layout: Layout, *, trains_all: bool, num_layers: int) -> LlamaForCausalLM:
    """The model on the meta device, cut as `wrap` cuts it; all weights in float32, or a frozen base in bfloat16."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**CONFIG | {"num_hidden_layers": num_layers}))
    model = model.to(torch.float32 if trains_all else torch.bfloat16).requires_grad_(trains_all)
    whole = [p for p in model.parameters() if p.ndim == 1] if trains_all else []
    wrap(
        model, layout, blocks=list(model.model.layers), whole=whole, device=torch.device("meta"),
        gathered_dtype=torch.bfloat16,
    )  # fmt: skip
    return model


def own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def test_the_fixture_is_the_model_that_estimates_know():
    known = KNOWN["meta-llama/Llama-3.1-70B"]
    assert replace(shape_from_config(CONFIG), family=known.family) == known


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "trains_all"), [("fsdp", True), ("hsdp", False)])
def test_one_of_64_ranks_holds_what_the_formula_says_to_the_byte(strategy, trains_all):
    """All 80 layers; those of the other ranks are counted below on one layer, which all are like."""
    with rank_of_many(WORLD_SIZE - 1, strategy) as layout:
        model = build(layout, trains_all=trains_all, num_layers=80)
        parts = [own(parameter) for parameter in model.parameters()]
    assert all(part.device.type == "meta" for part in parts)
    assert sum(p.numel() for p in model.parameters()) == 70_553_706_496
    expected = own_entries(weights_of(job(trains_all=trains_all, num_layers=80)), STRATEGIES[strategy])
    assert sum(part.nbytes for part in parts) == expected * (FLOAT32_BYTES if trains_all else 2)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_of_a_checkpoint_of_64_ranks_every_number_is_written_once(strategy):
    """One layer with embedding and head: which rows of which tensor every rank writes, and how many bytes."""
    written: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    shapes: dict[str, tuple[int, ...]] = {}
    by_rank = {}
    shards = STRATEGIES[strategy]
    weights = weights_of(job(trains_all=True, num_layers=1))
    # of the other copies the first and the last rank will do
    for rank in range(WORLD_SIZE) if shards == WORLD_SIZE else (*range(shards + 1), WORLD_SIZE - 1):
        with rank_of_many(rank, strategy) as layout:
            named = dict(build(layout, trains_all=True, num_layers=1).named_parameters())
            held = sum(own(parameter).numel() for parameter in named.values())
            blocks = own_blocks(named, {}, is_first_of_data=layout.data_rank == 0, is_first_of_tensor=True)
        assert held == own_entries(weights, shards, rank % shards)
        by_rank[rank] = sum(block.tensor.nbytes for block in blocks.values())
        for name, block in blocks.items():
            shapes[name] = block.shape
            written[name].append((rank, block.offsets[0], block.offsets[0] + block.tensor.shape[0]))
            assert block.offsets[1:] == (0,) * (len(block.shape) - 1) and block.tensor.shape[1:] == block.shape[1:]
    assert len(shapes) == 12 and sum(torch.Size(shape).numel() for shape in shapes.values()) == weights.num_all
    for name, pieces in written.items():
        # one behind the other from the first row to the last: nothing twice, nothing missing
        assert [start for _, start, _ in pieces] == [0, *(stop for _, _, stop in pieces[:-1])]
        assert pieces[-1][2] == shapes[name][0]
        if len(pieces) > 1:
            rows = [own_rows(shapes[name][0], shards, rank) for rank, _, _ in pieces]
            assert [(each.start, each.stop) for each in rows] == [(start, stop) for _, start, stop in pieces]
    # norms are rank 0's; ranks of other copies write nothing
    norms = FLOAT32_BYTES * weights.num_whole
    each = FLOAT32_BYTES * (weights.num_block + weights.num_rest) // shards
    expected = [each + norms, *[each] * (shards - 1), *[0] * (WORLD_SIZE - shards)]
    assert by_rank == {rank: expected[rank] for rank in by_rank}
