from dataclasses import replace

import pytest
import torch
from tiny import LORA, build_training, make_plan, make_samples, tiny_llama

from whet.errors import RecipeError
from whet.parallel.env import Env
from whet.parallel.mesh import Layout, layout_of
from whet.parallel.wrap import Sharding
from whet.recipe.schema import Parallel


def layouts(parallel, *, num_ranks, per_node=None, strategy=None):
    per_node = per_node or num_ranks
    return [
        layout_of(
            parallel,
            Env(rank=rank, world_size=num_ranks, local_rank=rank % per_node, local_world_size=per_node),
            strategy=strategy or parallel.strategy,
        )
        for rank in range(num_ranks)
    ]


def test_one_process_holds_and_sees_everything():
    assert layouts(Parallel(), num_ranks=1, strategy="replicate") == [Layout()]
    assert not layouts(Parallel(strategy="fsdp"), num_ranks=1)[0].is_sharded


@pytest.mark.parametrize(
    ("parallel", "num_replicas", "num_shards"),
    [
        (Parallel(strategy="replicate"), 8, 1),
        (Parallel(strategy="fsdp"), 1, 8),
        (Parallel(strategy="hsdp"), 2, 4),  # the ranks of a node
        (Parallel(strategy="hsdp", shards=2), 4, 2),
        (Parallel(strategy="hsdp", tensor=2), 2, 2),
        (Parallel(strategy="fsdp", tensor=4), 1, 2),
    ],
    ids=str,
)
def test_ranks_are_shared_out(parallel, num_replicas, num_shards):
    found = layouts(parallel, num_ranks=8, per_node=4)
    assert {(each.num_replicas, each.num_shards, each.num_tensor_ranks) for each in found} == {
        (num_replicas, num_shards, parallel.tensor)
    }
    assert num_replicas * num_shards * parallel.tensor == 8


def test_ranks_that_share_layers_are_neighbours_and_see_the_same_rows():
    found = layouts(Parallel(strategy="fsdp", tensor=2), num_ranks=4)
    assert [each.data_rank for each in found] == [0, 0, 1, 1]
    assert [each.tensor_rank for each in found] == [0, 1, 0, 1]
    samples = make_samples([7, 4, 9, 5])
    plan = make_plan(4, micro_batch=1, global_batch=4, world_size=2)
    training = build_training(tiny_llama(torch.float32), samples, plan, adapter=LORA)
    read = []
    for rank, layout in enumerate(found):
        placed = replace(training, env=Env(rank=rank, world_size=4), layout=layout)
        read.append([batch.sample_ids for batch in placed.rows(0).batches])
    assert read[0] == read[1] and read[2] == read[3]
    assert sorted(ids for batches in (read[0], read[2]) for (ids,) in batches) == [s.id for s in samples]


@pytest.mark.parametrize(
    ("parallel", "where", "mend"),
    [
        (Parallel(strategy="replicate", tensor=4), "parallel.tensor", "1, 2, 3, 6"),
        (Parallel(strategy="hsdp", shards=4), "parallel.shards", "1, 2, 3, 6"),
        (Parallel(strategy="fsdp", shards=2), "parallel.shards", "hsdp"),
    ],
    ids=str,
)
def test_ranks_that_cannot_be_cut_so_are_refused_with_what_would_work(parallel, where, mend):
    with pytest.raises(RecipeError, match=f"(?s){where}.*{mend}"):
        layouts(parallel, num_ranks=6)


def test_nothing_is_gathered_where_every_rank_holds_everything():
    sharding = Sharding()
    assert list(sharding.in_turn("abc")) == ["a", "b", "c"]
    with sharding.whole(), sharding.together():
        pass
