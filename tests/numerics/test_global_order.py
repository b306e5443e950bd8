"""Law: one global order of samples. The number of ranks decides who computes a row, never which rows a step takes."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import make_samples

from whet.data.sampler import Order
from whet.data.step_rows import read_step
from whet.errors import RecipeError
from whet.recipe import resolve
from whet.recipe.schema import Batch, Data, Recipe, Source
from whet.train.memory_plan import continued

WORLDS = (1, 2, 4, 8)
NUM_EPOCHS = 2


def recipe(global_size: int, micro_size: int | str = "auto") -> Recipe:
    data = Data(train=(Source(source="rows.jsonl"),))
    return Recipe(name="a", output="b", data=data, batch=Batch(global_size=global_size, micro_size=micro_size))


def plans(order: Order, global_size: int, micro_size: int | str = "auto") -> dict:
    """World size -> the plan that the recipe gives it."""
    made = recipe(global_size, micro_size)
    return {world: resolve(made, world_size=world, num_samples=order.num_units) for world in WORLDS}


ORDERS = st.builds(
    lambda lengths, seed, unit, weights: Order(
        np.array(lengths, dtype=np.int32), seed=seed, unit=unit, capacity=64,
        source_sizes=(len(lengths) // 2, len(lengths) - len(lengths) // 2) if weights else (), weights=weights,
    ),
    st.lists(st.integers(1, 60), min_size=2, max_size=90), st.integers(0, 2**32 - 1),
    st.sampled_from(["samples", "packs"]), st.sampled_from([None, (3.0, 1.0)]),
)  # fmt: skip
GLOBAL_SIZES = st.integers(1, 5).map(lambda n: 8 * n)
UNEVEN = Order(np.arange(1, 14, dtype=np.int32), seed=3)
"""13 samples: with 8 a step the last one has 5, so that three of eight ranks have none"""


@settings(deadline=None, max_examples=30)
@given(ORDERS, GLOBAL_SIZES)
@example(UNEVEN, 8)
def test_every_number_of_ranks_takes_the_same_samples_in_the_same_steps(order, global_size):
    by_world = plans(order, global_size)
    alone = by_world[1]
    for step in range(NUM_EPOCHS * alone.steps_per_epoch):
        expected = order.step(alone, step).indices.tolist()
        for plan in by_world.values():
            assert order.step(plan, step).indices.tolist() == expected
    for name in ("global_batch", "steps_per_epoch", "total_steps", "warmup_steps", "save_every"):
        assert {getattr(plan, name) for plan in by_world.values()} == {getattr(alone, name)}


@settings(deadline=None, max_examples=30)
@given(ORDERS, GLOBAL_SIZES)
@example(UNEVEN, 8)
def test_over_all_ranks_an_epoch_takes_each_sample_once(order, global_size):
    for world, plan in plans(order, global_size).items():
        for epoch in range(NUM_EPOCHS):
            steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
            taken = [
                turn for step in steps for rank in range(world) for turn in order.step(plan, step).of_rank(rank, world)
            ]
            found = np.concatenate(taken)
            assert len(found) == len(order.lengths)
            if order._counts is None:  # a mix takes some rows twice and leaves others to the next epoch
                assert sorted(found) == list(range(len(order.lengths)))


@settings(deadline=None, max_examples=30)
@given(ORDERS, GLOBAL_SIZES, st.sampled_from(["auto", 1]))
@example(UNEVEN, 8, 1)
def test_every_rank_has_as_many_turns_as_the_others_and_accumulation_follows(order, global_size, micro_size):
    for world, plan in plans(order, global_size, micro_size).items():
        assert plan.global_batch == global_size == plan.micro_batch * plan.accumulation * world
        for step in range(plan.steps_per_epoch):
            this_step = order.step(plan, step)
            assert {len(this_step.of_rank(rank, world)) for rank in range(world)} == {plan.accumulation}


@settings(deadline=None, max_examples=30)
@given(ORDERS, GLOBAL_SIZES, st.sampled_from(WORLDS), st.sampled_from(WORLDS), st.integers(0, 20))
def test_a_run_continued_on_other_ranks_takes_the_samples_that_are_left(order, global_size, before, after, done):
    saved = plans(order, global_size)[before]
    plan = continued(recipe(global_size), saved, after)
    assert plan.global_batch == plan.micro_batch * plan.accumulation * after
    done = min(done, saved.steps_per_epoch)
    steps = [(saved, step) for step in range(done)] + [(plan, step) for step in range(done, saved.steps_per_epoch)]
    found = [order.step(each, step).indices for each, step in steps]
    expected = [order.step(saved, step).indices for step in range(saved.steps_per_epoch)]
    assert np.concatenate(found).tolist() == np.concatenate(expected).tolist()


@pytest.mark.parametrize("world", WORLDS)
def test_all_ranks_tell_the_same_of_a_step_and_share_out_its_rows(world):
    samples = make_samples([17, 9, 30, 5, 12, 8, 21, 14, 6, 25, 11])
    lengths = np.array([sample.num_tokens for sample in samples], dtype=np.int32)
    num_taught = np.array([sample.num_taught for sample in samples], dtype=np.int32)
    order = Order(lengths, seed=2)
    alone, plan = (plans(order, 8)[each] for each in (1, world))
    for step in range(2):  # the second one is short: three rows
        expected = read_step(samples, num_taught, order, alone, step, rank=0)
        ranks = [read_step(samples, num_taught, order, plan, step, rank=rank) for rank in range(world)]
        for rows in ranks:
            for name in ("sample_ids", "num_tokens", "num_taught", "batch_hash"):
                assert getattr(rows, name) == getattr(expected, name)
        read = [each for rows in ranks for batch in rows.batches for each in batch.sample_ids]
        assert sorted(read) == sorted(expected.sample_ids)


def numbers(text: str, lead: str) -> list[int]:
    match = re.search(lead + r"(\d+)(?: or (\d+))?", text)
    return [int(n) for n in match.groups() if n] if match else []


def test_ranks_that_do_not_divide_the_global_batch_are_refused_with_the_nearest_numbers_that_work():
    for whole, world in itertools.product((8, 12, 64, 128), range(1, 20)):
        if whole % world == 0:
            assert resolve(recipe(whole), world_size=world, num_samples=9).world_size == world
            continue
        with pytest.raises(RecipeError) as caught:
            resolve(recipe(whole), world_size=world, num_samples=9)
        assert f"{whole} samples per step cannot be cut" in str(caught.value)
        assert f"world size {world}" in str(caught.value)
        divisors = [n for n in range(1, whole + 1) if whole % n == 0]
        below, above = max(n for n in divisors if n < world), [n for n in divisors if n > world]
        assert numbers(caught.value.mend, "a world size of ") == [below, *above[:1]]
        multiples = [n for n in (whole // world * world, (whole // world + 1) * world) if n]
        assert numbers(caught.value.mend, "global_size=") == multiples
