"""Pieces of tensors: every row has one owner, and sizes are those of torch.chunk."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whet.estimate.memory import Job
from whet.estimate.sharding import (
    gathered_entries,
    num_entries,
    own_entries,
    own_rows,
    shard_entries,
    weights_of,
)

LLAMA_70B = Job(
    num_layers=80, hidden=8192, intermediate=28_672, query_size=8192, key_size=1024, num_heads=64, vocab=128_256,
    num_base=70_553_706_496, num_trainable=70_553_706_496, trains_all=True, is_fused=False, narrow_values=0,
    compute_bytes=2, is_tied=False, device="cuda",
)  # fmt: skip


@given(st.integers(1, 200), st.integers(1, 70))
def test_rows_are_cut_as_torch_cuts_them(rows, num_shards):
    pieces = [own_rows(rows, num_shards, shard) for shard in range(num_shards)]
    assert [row for piece in pieces for row in piece] == list(range(rows))
    chunks = [len(chunk) for chunk in torch.arange(rows).chunk(num_shards)]
    assert [len(piece) for piece in pieces] == chunks + [0] * (num_shards - len(chunks))


def test_the_weights_of_the_published_70b_add_up():
    for trains_all in (True, False):
        weights = weights_of(replace(LLAMA_70B, trains_all=trains_all))
        assert weights.num_all == 70_553_706_496
        assert own_entries(weights, 1) == weights.num_all
    tied = weights_of(replace(LLAMA_70B, is_tied=True))
    assert tied.num_all == 70_553_706_496 - 128_256 * 8192


@pytest.mark.parametrize("num_shards", [2, 8, 64, 48])
def test_all_ranks_together_hold_the_model_and_the_first_holds_most(num_shards):
    for trains_all in (True, False):
        weights = weights_of(replace(LLAMA_70B, trains_all=trains_all))
        own = [own_entries(weights, num_shards, shard) for shard in range(num_shards)]
        assert sum(own) == weights.num_all + (num_shards - 1) * weights.num_whole
        assert max(own) == own[0]
    assert own_entries(weights_of(LLAMA_70B), 64) == (70_553_706_496 - 161 * 8192) // 64 + 161 * 8192


def test_groups_travel_with_every_piece_as_long_as_the_first():
    shapes = [(10, 3), (4, 1), (1, 5)]
    assert num_entries(shapes) == 39
    assert [shard_entries(shapes, 4, shard) for shard in range(4)] == [9 + 1 + 5, 9 + 1, 9 + 1, 3 + 1]
    assert gathered_entries(shapes, 4) == 4 * 15
