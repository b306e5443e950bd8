"""What a rank reads of a step: its own rows whole, of the others no more than their ids."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tiny import make_plan, make_samples

from whet.data.packing import pack, to_device
from whet.data.sampler import Order, batch_hash
from whet.data.step_rows import read_step

LENGTHS = (9, 4, 17, 3, 12, 8, 5)
SAMPLES = make_samples(LENGTHS)
NUM_TAUGHT = np.array([s.num_taught for s in SAMPLES], dtype=np.int32)
ORDER = Order(np.array(LENGTHS, dtype=np.int32), seed=3)


def read(step, *, rank=0, world_size=1):
    plan = make_plan(len(SAMPLES), micro_batch=1, global_batch=4, world_size=world_size)
    return read_step(SAMPLES, NUM_TAUGHT, ORDER, plan, step, rank=rank), ORDER.step(plan, step)


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_rows_and_know_the_same_of_the_step(step, world_size):
    ranks = [read(step, rank=rank, world_size=world_size)[0] for rank in range(world_size)]
    taken = read(step)[1].indices
    facts = {(r.step, r.sample_ids, r.num_tokens, r.num_taught, r.batch_hash) for r in ranks}
    samples = [SAMPLES[i] for i in taken]
    ids = tuple(s.id for s in samples)
    assert facts == {
        (step, ids, sum(s.num_tokens for s in samples), sum(s.num_taught for s in samples), batch_hash(ids))
    }
    packed = [id_ for r in ranks for batch in r.batches for id_ in batch.sample_ids]
    assert sorted(packed) == sorted(ids)
    assert sum(batch.num_taught for r in ranks for batch in r.batches) == ranks[0].num_taught


def test_a_batch_is_what_packing_makes_of_its_samples():
    rows, taken = read(0)
    assert len(rows.batches) == len(taken.passes)
    for batch, one_pass in zip(rows.batches, taken.passes, strict=True):
        expected = pack([SAMPLES[i] for i in one_pass])
        for field in dataclasses.fields(expected):
            ours, theirs = getattr(batch, field.name), getattr(expected, field.name)
            assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


def test_a_batch_that_is_where_it_is_needed_is_not_copied():
    batch = read(0)[0].batches[0]
    assert to_device(batch, torch.device("cpu")) is batch
    moved = to_device(batch, torch.device("meta"))
    tensors = [t for f in dataclasses.fields(moved) if isinstance(t := getattr(moved, f.name), torch.Tensor)]
    assert len(tensors) >= 5 and {t.device.type for t in tensors} == {"meta"}
    assert moved.sample_keys == batch.sample_keys


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_turns_without_samples_are_filled_with_passes_that_teach_nothing(world_size):
    """Seven samples, four a step: in the second step there are three, of which some rank has none or fewer."""
    plan = make_plan(len(SAMPLES), micro_batch=1, global_batch=world_size * 2, world_size=world_size)
    for step in range(plan.steps_per_epoch):
        filled, plain = (
            [
                read_step(SAMPLES, NUM_TAUGHT, ORDER, plan, step, rank=rank, fills_turns=fills)
                for rank in range(world_size)
            ]
            for fills in (True, False)
        )
        assert len({len(rank.batches) for rank in filled}) == 1
        for rank, without in zip(filled, plain, strict=True):
            own = len(without.batches)
            assert [b.sample_ids for b in rank.batches[:own]] == [b.sample_ids for b in without.batches]
            assert all(len(b.ids_T) == 1 and b.num_taught == 0 for b in rank.batches[own:])
            assert (rank.sample_ids, rank.num_taught) == (without.sample_ids, without.num_taught)


@pytest.mark.parametrize("num_parts", [2, 4, 8])
@pytest.mark.parametrize("world_size", [1, 2])
def test_passes_cut_into_parts_are_of_the_same_samples_on_the_same_rank(num_parts, world_size):
    plan = make_plan(len(SAMPLES), micro_batch=4 // world_size, global_batch=4, world_size=world_size)
    for step in range(plan.steps_per_epoch):
        for rank in range(world_size):
            whole = read_step(SAMPLES, NUM_TAUGHT, ORDER, plan, step, rank=rank)
            cut = read_step(SAMPLES, NUM_TAUGHT, ORDER, plan, step, rank=rank, num_parts=num_parts)
            assert (cut.sample_ids, cut.num_tokens, cut.num_taught) == (
                whole.sample_ids, whole.num_tokens, whole.num_taught
            )  # fmt: skip
            ids = [[i for batch in each.batches for i in batch.sample_ids] for each in (whole, cut)]
            assert sorted(ids[0]) == sorted(ids[1]) and len(set(ids[1])) == len(ids[1])
            expected = sum(min(len(batch.sample_ids), num_parts) for batch in whole.batches)
            assert len(cut.batches) == expected and all(batch.sample_ids for batch in cut.batches)
            assert (whole.num_parts, cut.num_parts) == (1, num_parts)


def test_filled_turns_count_the_parts_of_every_rank():
    plan = make_plan(len(SAMPLES), micro_batch=2, global_batch=4, world_size=2)
    for step in range(plan.steps_per_epoch):
        counts = [
            len(read_step(SAMPLES, NUM_TAUGHT, ORDER, plan, step, rank=rank, num_parts=2, fills_turns=True).batches)
            for rank in range(2)
        ]
        assert counts[0] == counts[1] >= 1


@pytest.mark.parametrize("world_size", [1, 2])
def test_samples_that_are_left_out_are_missing_and_the_others_stay_in_their_passes(world_size):
    plan = make_plan(len(SAMPLES), micro_batch=1, global_batch=4, world_size=world_size)
    gone = SAMPLES[int(ORDER.step(plan, 0).indices[1])].id
    for rank in range(world_size):
        whole, rest = (
            read_step(SAMPLES, NUM_TAUGHT, ORDER, plan, 0, rank=rank, left_out=left_out) for left_out in ((), {gone})
        )
        assert rest.sample_ids == tuple(id_ for id_ in whole.sample_ids if id_ != gone)
        left = [SAMPLES[int(id_.removeprefix("sample-"))] for id_ in rest.sample_ids]
        assert (rest.num_taught, rest.num_tokens) == (sum(s.num_taught for s in left), sum(s.num_tokens for s in left))
        passes = [tuple(id_ for id_ in batch.sample_ids if id_ != gone) for batch in whole.batches]
        assert [batch.sample_ids for batch in rest.batches] == [ids for ids in passes if ids]


def test_a_step_that_loses_all_of_its_samples_is_empty():
    plan = make_plan(len(SAMPLES), micro_batch=1, global_batch=4)
    all_ids = {sample.id for sample in SAMPLES}
    rows = read_step(SAMPLES, NUM_TAUGHT, ORDER, plan, 0, rank=0, left_out=all_ids, fills_turns=True)
    assert (rows.batches, rows.sample_ids, rows.num_taught, rows.num_tokens) == ((), (), 0, 0)
