"""Packs of a fixed length: those of the textbook, and the same ones that placing sample after sample gives."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from whet.data.pack_plan import PackPlan, index_dtype, plan_packs

LENGTHS = st.lists(st.integers(1, 50), max_size=60)


@settings(deadline=None)
@given(LENGTHS, st.integers(50, 120))
def test_packs_hold_every_sample_once_and_no_pack_is_too_long(lengths, capacity):
    packs = plan_packs(np.array(lengths, dtype=np.int32), capacity)
    assert sorted(sample for pack in packs for sample in pack) == list(range(len(lengths)))
    assert all(sum(lengths[sample] for sample in pack) <= capacity for pack in packs)
    assert all(len(pack) and sorted(pack) == pack.tolist() for pack in packs)


def _best_fit_decreasing(lengths, capacity):
    """The textbook way, by looking through every bin."""
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, left in enumerate(room) if left >= length]
        if fitting:
            room[min(fitting, key=lambda i: room[i])] -= length
        else:
            room.append(capacity - length)
    return sorted(room)


@settings(deadline=None)
@given(LENGTHS, st.integers(50, 120))
def test_packs_are_filled_as_best_fit_decreasing_fills_them(lengths, capacity):
    packs = plan_packs(np.array(lengths, dtype=np.int32), capacity)
    assert sorted(capacity - sum(lengths[s] for s in pack) for pack in packs) == _best_fit_decreasing(lengths, capacity)


def _one_by_one(lengths, capacity):
    """Sample after sample; of packs with equal room the one that was filled last."""
    packs: list[list[int]] = []
    waiting: dict[int, list[int]] = {}
    for sample in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [room for room, stack in waiting.items() if stack and room >= lengths[sample]]
        room = min(fitting, default=capacity)
        if fitting:
            number = waiting[room].pop()
        else:
            number = len(packs)
            packs.append([])
        packs[number].append(sample)
        waiting.setdefault(room - lengths[sample], []).append(number)
    return [sorted(pack) for pack in packs]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, 20), max_size=80), st.integers(20, 70), st.sampled_from([np.int32, np.uint16, np.int64]))
@example([7, 7, 7, 5, 5, 5, 3, 3, 2, 2, 2, 2, 1], 20, np.int32)
@example([0, 0, 3], 20, np.int32)
@example([3, 2, 1], 70_000, np.uint16)
def test_samples_of_equal_length_at_once_are_placed_as_one_by_one(lengths, capacity, dtype):
    packs = plan_packs(np.array(lengths, dtype=dtype), capacity)
    assert [pack.tolist() for pack in packs] == _one_by_one(lengths, capacity)


def test_a_sample_longer_than_a_pack_is_refused():
    with pytest.raises(ValueError, match="a sample of 51 tokens does not fit a pack of 50"):
        plan_packs(np.array([3, 51]), 50)


def test_a_plan_is_a_row_of_packs():
    plan = PackPlan(samples=np.array([4, 7, 1], dtype=np.int32), starts=np.array([0, 2, 3]))
    assert len(plan) == 2 and plan[1].tolist() == [1]
    assert [pack.tolist() for pack in plan] == [[4, 7], [1]]
    assert len(plan_packs(np.zeros(0, dtype=np.int32), 10)) == 0


def test_indices_are_as_narrow_as_they_may_be():
    assert index_dtype(2**31 - 1) == np.int32
    assert index_dtype(2**31) == np.int64


def test_a_plan_of_many_samples_takes_bytes_and_no_objects():
    lengths = np.random.default_rng(0).integers(1, 2000, 200_000).astype(np.uint16)
    tracemalloc.start()
    try:
        plan = plan_packs(lengths, 8192)
        kept, peak = (each / len(lengths) for each in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    assert len(plan.samples) == len(lengths)
    # 4 bytes of a sample and 8 of each pack are kept; the peak has two orders of 8 bytes and some copies
    assert kept < 8 and peak < 40
