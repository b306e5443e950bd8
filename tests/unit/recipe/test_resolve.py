"""Steps, warm-up and accumulation agree with Hugging Face's formulas, computed by Hugging Face or written out here."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

import pytest

from whet.errors import RecipeError
from whet.recipe import Recipe, parse_recipe, resolve
from whet.recipe.resolve import ASSUMED_MICRO_BATCH, fixed_micro_batch, possible_micro_batches, warmup_steps


def recipe(**changes: object) -> Recipe:
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    return parse_recipe("name: a\noutput: b\ndata: {train: [{source: r.jsonl}]}\n", "r.yaml", overrides)


def trainer_steps(num_rows: int, micro: int, accumulation: int, world: int, epochs: int) -> int:
    """transformers.Trainer: the sampler shares batches out, the loader is cut into accumulation windows."""
    batches = math.ceil(num_rows / micro)
    batches_per_rank = math.ceil(batches / world)
    updates_per_epoch = math.ceil(batches_per_rank / accumulation)
    return math.ceil(epochs * updates_per_epoch)


@pytest.mark.parametrize(
    ("num_rows", "global_size", "epochs", "warmup", "steps", "warmup_expected"),
    [
        (5_500, 16, 3, 0.1, 1_032, 104),  # FiQA
        (395_000, 128, 2, 0.03, 6_172, 186),  # MetaMathQA
        (7_473, 64, 5, 0.05, 585, 30),  # GSM8K
    ],
)
def test_published_runs_have_their_steps(num_rows, global_size, epochs, warmup, steps, warmup_expected):
    made = recipe(batch__global_size=global_size, train__epochs=epochs, optim__warmup=warmup)
    plan = resolve(made, world_size=1, num_samples=num_rows)
    assert (plan.total_steps, plan.warmup_steps) == (steps, warmup_expected)


def test_steps_equal_the_trainers_over_a_grid():
    grid = itertools.product((1, 2, 7, 15, 16, 17, 100, 5500), (1, 2, 4), (1, 3, 4), (1, 2, 8), (1, 3))
    for num_rows, micro, accumulation, world, epochs in grid:
        made = recipe(batch__global_size=micro * accumulation * world, batch__micro_size=micro, train__epochs=epochs)
        plan = resolve(made, world_size=world, num_samples=num_rows)
        assert plan.accumulation == accumulation
        assert plan.global_batch == plan.micro_batch * plan.accumulation * plan.world_size
        assert plan.total_steps == trainer_steps(num_rows, micro, accumulation, world, epochs)


def test_a_micro_batch_of_auto_cuts_the_global_batch_on_every_number_of_ranks():
    for global_size, world in itertools.product((1, 2, 6, 7, 8, 12, 15, 16, 90, 96, 128), (1, 2, 3, 4, 8)):
        batch = recipe(batch__global_size=global_size, batch__micro_size="auto").batch
        brute = [n for n in range(1, global_size + 1) if global_size % (n * world) == 0]
        assert possible_micro_batches(batch, world) == brute
        if brute:
            assert fixed_micro_batch(batch, world) == max(n for n in brute if n <= ASSUMED_MICRO_BATCH)
        for micro in brute:
            plan = resolve(recipe(batch__global_size=global_size), world_size=world, num_samples=9, micro_batch=micro)
            assert plan.global_batch == plan.micro_batch * plan.accumulation * plan.world_size == global_size
            assert plan.micro_batch == micro


def test_warm_up_equals_transformers_own(tmp_path):
    transformers = pytest.importorskip("transformers")
    for warmup, total in itertools.product((0, 0.03, 0.07, 0.1, 0.5, 0.999, 1, 7, 100), (1, 3, 100, 585, 1032, 6172)):
        arguments = transformers.TrainingArguments(output_dir=str(tmp_path), warmup_steps=warmup, report_to=[])
        assert warmup_steps(warmup, total) == arguments.get_warmup_steps(total)


def test_every_row_is_in_exactly_one_step_of_an_epoch():
    for num_rows, global_size in itertools.product(range(1, 40), (1, 2, 4, 8)):
        made = recipe(batch__global_size=global_size, batch__micro_size=1)
        plan = resolve(made, world_size=1, num_samples=num_rows)
        assert plan.steps_per_epoch == len(range(0, num_rows, global_size))


def test_max_steps_sets_the_length_and_the_epochs_follow():
    plan = resolve(recipe(train__max_steps=50), world_size=1, num_samples=1600)
    assert (plan.total_steps, plan.steps_per_epoch, plan.epochs) == (50, 100, 0.5)


def test_a_part_of_an_epoch_is_rounded_up_to_whole_steps():
    plan = resolve(recipe(train__epochs=0.505), world_size=1, num_samples=1600)
    assert (plan.total_steps, plan.epochs) == (51, 0.505)


def test_an_override_of_the_steps_wins_and_cuts_the_warm_up():
    made = recipe(train__epochs=3, optim__warmup=100)
    plan = resolve(made, world_size=1, num_samples=5500, max_steps_override=10)
    assert (plan.total_steps, plan.warmup_steps, plan.epochs) == (10, 10, 10 / 344)


def test_cadences_are_a_tenth_of_the_run_unless_given():
    held_out = recipe(data__validation="[{source: v.jsonl}]", train__epochs=3)
    plan = resolve(held_out, world_size=1, num_samples=5500)
    assert (plan.save_every, plan.eval_every) == (103, 103)
    assert resolve(recipe(train__epochs=3), world_size=1, num_samples=5500).eval_every == 0
    assert resolve(recipe(train__save_every=7), world_size=1, num_samples=5500).save_every == 7
    short = resolve(recipe(data__validation="[{source: v.jsonl}]"), world_size=1, num_samples=5)
    assert (short.total_steps, short.save_every, short.eval_every, short.warmup_steps) == (1, 1, 1, 1)


def test_every_proposal_for_an_uneven_batch_works():
    for whole, micro, world in itertools.product((12, 16, 30, 64), (1, 2, 4, 8), (1, 2, 3, 5, 7, 16)):
        if whole % micro:
            continue
        made = recipe(batch__global_size=whole, batch__micro_size=micro)
        if whole % (micro * world) == 0:
            assert resolve(made, world_size=world, num_samples=9).accumulation * micro * world == whole
            continue
        with pytest.raises(RecipeError) as caught:
            resolve(made, world_size=world, num_samples=9)
        mend = caught.value.mend
        assert mend is not None
        sizes = numbers(mend, r"global_size=")
        assert sizes and all(n % (micro * world) == 0 for n in sizes)
        assert all(whole % (n * world) == 0 for n in numbers(mend, r"micro_size="))
        assert all(whole % (micro * n) == 0 for n in numbers(mend, r"world size of "))


def numbers(text: str, lead: str) -> list[int]:
    match = re.search(lead + r"(\d+)(?: or (\d+))?", text)
    return [int(n) for n in match.groups() if n] if match else []


def test_what_cannot_be_planned_is_a_recipe_error():
    with pytest.raises(RecipeError, match="no training sample"):
        resolve(recipe(), world_size=1, num_samples=0)
    with pytest.raises(RecipeError, match="world size must be at least 1"):
        resolve(recipe(), world_size=0, num_samples=5)
    with pytest.raises(RecipeError, match="number of steps must be at least 1"):
        resolve(recipe(), world_size=1, num_samples=5, max_steps_override=0)
    with pytest.raises(RecipeError, match="too many to count"):
        resolve(recipe(train__epochs="1e308"), world_size=1, num_samples=10**6)
    with pytest.raises(RecipeError, match=r"warm-up is longer than the run \(20 of 1 steps\)"):
        resolve(recipe(optim__warmup=20), world_size=1, num_samples=5)


def test_the_machine_is_written_into_the_plan_and_changes_nothing_else():
    here = resolve(recipe(), world_size=1, num_samples=100)
    there = resolve(recipe(), world_size=1, num_samples=100, device="cuda", compute_dtype="bfloat16", num_threads=8)
    assert dataclasses.replace(there, device="cpu", compute_dtype="float32", num_threads=1) == here
