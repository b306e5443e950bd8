"""The table of collectives, by hand for a small model; real steps are counted in tests/numerics/test_wire_bytes.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whet.estimate.memory import Job
from whet.estimate.traffic import Sharing, calls, num_numbers, sent_bytes

SMALL = Job(
    num_layers=3, hidden=8, intermediate=16, query_size=8, key_size=4, num_heads=2, vocab=24, num_base=0,
    num_trainable=100, trains_all=False, is_fused=True, narrow_values=7 * 4, compute_bytes=2, is_tied=False,
)  # fmt: skip
BLOCK = 2 * 8 * 8 + 2 * 4 * 8 + 3 * 16 * 8
"""linear layers"""


def sharing(strategy: str, num_ranks: int, shards: int) -> Sharing:
    return Sharing(strategy=strategy, num_ranks=num_ranks, shards=shards, ranks_per_node=4)


def by_what(made) -> dict:
    return {call.what: (call.kind, call.payload_bytes, call.count, call.group.num_ranks) for call in made}


def test_copies_send_gradients_and_numbers_once():
    made = calls(SMALL, sharing("replicate", 2, 1), passes=7)
    assert by_what(made) == {"flat all-reduce": ("all_reduce", 4 * (100 + 7 + 2), 1, 2)}
    assert sent_bytes(made) == 4 * (100 + 7 + 2)


def test_a_frozen_base_in_shards_is_gathered_twice_in_a_pass_and_its_adapter_summed_once():
    made = by_what(calls(SMALL, sharing("fsdp", 4, 4), passes=2))
    block, rest = 2 * (BLOCK + 2 * 8), 2 * (2 * 24 * 8 + 8)
    assert made == {
        "first block": ("all_gather", block, 2, 4),
        "other blocks": ("all_gather", block, 2 * 5, 4),
        "embedding and head": ("all_gather", rest, 2, 4),
        "flat all-reduce": ("all_reduce", 4 * (100 + 7 + 4), 1, 4),
    }


def test_all_weights_in_shards_scatter_float32_gradients_and_sum_norms_once():
    made = by_what(calls(replace(SMALL, trains_all=True), sharing("fsdp", 4, 4), passes=2))
    norms = 7 * 8
    assert made == {
        "first block": ("all_gather", 2 * BLOCK, 2, 4),
        "other blocks": ("all_gather", 2 * BLOCK, 10, 4),
        "embedding and head": ("all_gather", 4 * 2 * 24 * 8, 2, 4),
        "gradients of blocks": ("reduce_scatter", 4 * BLOCK, 6, 4),
        "gradients of embedding and head": ("reduce_scatter", 4 * 2 * 24 * 8, 2, 4),
        "flat all-reduce": ("all_reduce", 4 * (norms + num_numbers(4)), 1, 4),
    }


def test_copies_of_shards_sum_their_own_parts_once_whatever_the_number_of_passes():
    made = by_what(calls(replace(SMALL, trains_all=True), sharing("hsdp", 8, 4), passes=3))
    assert made["own gradients of blocks"] == ("all_reduce", BLOCK, 3, 2)  # 4 bytes x a quarter
    assert made["own gradients of embedding and head"] == ("all_reduce", 2 * 24 * 8, 1, 2)
    assert made["gradients of blocks"] == ("reduce_scatter", 4 * BLOCK, 9, 4)
    assert made["flat all-reduce"][3] == 8


@pytest.mark.parametrize(
    ("num_ranks", "shards", "nodes_of_shards", "nodes_of_copies"),
    [(8, 4, 1, 2), (16, 4, 1, 4), (8, 2, 1, 2), (16, 8, 2, 2)],
)
def test_shards_are_neighbours_and_copies_are_far(num_ranks, shards, nodes_of_shards, nodes_of_copies):
    found = sharing("hsdp", num_ranks, shards)
    assert found.num_replicas == num_ranks // shards
    assert (found.shard_group.num_nodes, found.replica_group.num_nodes) == (nodes_of_shards, nodes_of_copies)
    assert found.everyone.num_nodes == num_ranks // 4
