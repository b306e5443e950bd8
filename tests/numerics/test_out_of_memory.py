"""Law: a step that runs out of memory, wherever it does, ends as it would have with memory enough."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import short_memory_cases
import torch
from rank_launcher import launch
from safetensors.torch import load_file
from short_memory import NOT_OF_MEMORY, ShortMemory
from short_memory_cases import (
    ALONE,
    BOTH,
    CASES,
    GLOBAL_BATCH,
    NUM_DRAWN,
    NUM_RANDOM,
    NUM_STEPS,
    RANK_CASES,
    TIMED,
    Case,
    Told,
    draw_planned,
    make_training,
    result,
)
from tiny import distance, gradients, make_samples, run_steps, values
from tiny_live import make_live, make_rows

from whet.errors import OutOfMemoryError
from whet.inference import engine
from whet.train.fit import measure_step
from whet.train.held_out import evaluate_loss
from whet.train.loop import train
from whet.train.signals import StopRequest

NUM_SEEDS = 2
LOSS = {torch.float64: 1e-10, torch.float32: 1e-6}
# a step of Adam turns the last digits of small gradients into digits of the update
UPDATE = {torch.float64: 1e-10, torch.float32: 1e-3}


def assert_equal_runs(found, calm, case):
    """Within decision 21's tolerances; which samples a step has, exactly."""
    loss, update = LOSS[case.dtype], UPDATE[case.dtype]
    for step, expected in zip(found.steps, calm.steps, strict=True):
        for name in ("step", "lr", "batch_hash", "num_taught"):
            assert step[name] == expected[name]
        for name in ("loss", "grad_norm"):
            assert step[name] == pytest.approx(expected[name], rel=loss)
    assert distance(found.moved, calm.moved) < update


def assert_same_samples_and_masks(memory, calm):
    for step in range(NUM_STEPS):
        samples, expected = (sorted(s for p in each.of_step(step) for s in p.sample_ids) for each in (memory, calm))
        assert samples == expected and len(set(samples)) == len(samples)
        masks, expected_masks = (
            {m for p in each.of_step(step) for m in p.mask_rows if m[1] <= 5} for each in (memory, calm)
        )
        assert masks == expected_masks


@pytest.fixture(scope="module")
def calm():
    return {name: result(case) for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_runs_out_at_random_points_equals_one_that_never_does(calm, name):
    case = CASES[name]
    num_raised = 0
    for seed in range(NUM_SEEDS):
        found = result(case, planned=draw_planned(case, seed))
        num_raised += len(found.memory.raised)
        assert bool(found.incidents) == bool(found.memory.raised)
        assert_equal_runs(found, calm[name], case)
        assert_same_samples_and_masks(found.memory, calm[name].memory)
    assert num_raised


@pytest.mark.parametrize("name", ["lora with dropout", "two lanes", "packs"])
def test_later_steps_begin_with_passes_that_fit(calm, name):
    """Each halving is paid for once: no pass of a later step is too large again."""
    found = result(CASES[name], most_samples=1, from_step=1)
    cuts = [incident.facts["cut"] for incident in found.incidents]
    assert {cut["step"] for cut in cuts} == {1, 2} or {cut["step"] for cut in cuts} == {1}
    assert [cut["num_parts"] for cut in cuts] == [2 ** (n + 1) for n in range(len(cuts))]
    assert max(step for step, _ in found.memory.raised) <= cuts[-1]["step"]
    assert all(len(each.sample_ids) == 1 for step in (1, 2, 3) for each in found.memory.of_step(step))
    assert all(len(each.sample_ids) > 1 for each in found.memory.of_step(0))
    assert_equal_runs(found, calm[name], CASES[name])


def test_rows_that_were_read_ahead_are_read_again_in_smaller_passes():
    case, told = CASES["lora with dropout"], Told()
    run, expected = make_training(case, told=told), make_training(case)
    memory = ShortMemory(run, most_samples=2, from_step=1)
    for each in (run, expected):
        train(each, first_step=0, stop=StopRequest())
    assert [incident.facts["cut"]["num_parts"] for incident in told.incidents] == [2]
    assert all(len(each.sample_ids) <= 2 for step in range(1, NUM_STEPS) for each in memory.of_step(step))
    assert distance(values(run), values(expected)) < 1e-10


def test_of_a_pass_that_failed_in_its_backward_half_no_gradient_is_left():
    case = CASES["all weights"]
    run, expected = make_training(case), make_training(case)
    memory = ShortMemory(run, most_samples=3, point="backward")
    run_steps(expected, [0])
    run_steps(run, [0])
    assert memory.raised
    assert distance(gradients(run), gradients(expected)) < 1e-10


def test_where_one_sample_is_too_large_the_run_ends_before_the_update():
    case = CASES["lora with dropout"]
    run = make_training(case)
    run_steps(run, [0])
    before = values(run).clone()
    ShortMemory(run, most_samples=0)
    with pytest.raises(OutOfMemoryError, match=r"step 2: out of memory in a pass of 1 sample \(\d+ tokens\), which"):
        run_steps(run, [1])
    assert torch.equal(values(run), before)


def test_with_two_lanes_a_sample_that_fits_alone_is_computed_alone(calm):
    found = result(CASES["two lanes"], in_lanes=True)
    assert found.incidents[-1].facts["cut"]["is_single"] and "one after the other" in found.incidents[-1].text
    assert {incident.step for incident in found.incidents} == {1}
    assert_equal_runs(found, calm["two lanes"], CASES["two lanes"])


@pytest.mark.parametrize("point", ["before", "forward", "head", "backward"])
def test_another_error_is_told_as_it_is(point):
    run = make_training(CASES["lora with dropout"])
    ShortMemory(run, most_samples=0, point=point, error=NOT_OF_MEMORY)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run_steps(run, [0])
    assert run.room.at(3).num_parts == 1


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short-ranks")
    launch(Path(short_memory_cases.__file__), str(folder), num_ranks=2)
    return [
        (json.loads((folder / f"{rank}.json").read_text()), load_file(folder / f"{rank}.safetensors"))
        for rank in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ALONE, BOTH, *(f"random {seed}" for seed in range(NUM_RANDOM))])
@pytest.mark.parametrize("name", RANK_CASES)
def test_two_ranks_of_which_one_or_both_run_out_equal_two_that_do_not_and_one(two_ranks, calm, name, kind):
    (numbers, moved), (others, moved_there) = two_ranks
    key, undisturbed = f"{name}: {kind}", f"{name}: calm"
    assert numbers[key]["steps"] == others[key]["steps"] and torch.equal(moved[key], moved_there[key])
    assert numbers[key]["cuts"] == others[key]["cuts"] != []
    assert numbers[key]["raised"] or others[key]["raised"]
    assert numbers[key]["largest"][-1] == others[key]["largest"][-1], "one rank cut its passes and the other did not"
    if kind == ALONE:
        assert not numbers[key]["raised"] and set(map(tuple, numbers[key]["ranks"])) == {(1,)}
    tolerance = 1e-10
    for step, expected, alone in zip(
        numbers[key]["steps"], numbers[undisturbed]["steps"], calm[name].steps, strict=True
    ):
        for quantity in ("batch_hash", "num_taught", "lr"):
            assert step[quantity] == expected[quantity] == alone[quantity]
        for quantity in ("loss", "grad_norm"):
            assert step[quantity] == pytest.approx(expected[quantity], rel=tolerance)
            assert step[quantity] == pytest.approx(alone[quantity], rel=tolerance)
    assert distance(moved[key], moved[undisturbed]) < tolerance and distance(moved[key], calm[name].moved) < tolerance
    for rank, documents in enumerate((numbers, others)):
        assert documents[key]["samples"] == documents[undisturbed]["samples"], f"rank {rank} took other samples"


@pytest.mark.slow
def test_where_one_rank_has_no_memory_for_a_sample_all_end_with_the_same_words(two_ranks):
    said = [numbers["no way out"]["error"] for numbers, _ in two_ranks]
    assert said[0] == said[1] and "step 3: out of memory in a pass of 1 sample" in said[0] and "on rank 1" in said[0]


@pytest.mark.slow
def test_ranks_that_time_their_steps_agree_that_one_of_them_is_short(two_ranks, calm):
    (numbers, moved), (others, moved_there) = two_ranks
    assert numbers[TIMED]["cuts"] == others[TIMED]["cuts"] != []
    assert min(numbers[TIMED]["seconds"], others[TIMED]["seconds"]) > 0
    expected = calm["lora with dropout"]
    assert numbers[TIMED]["losses"] == pytest.approx([step["loss"] for step in expected.steps], rel=1e-10)
    assert torch.equal(moved[TIMED], moved_there[TIMED]) and distance(moved[TIMED], expected.moved) < 1e-10


def test_the_planned_shortages_meet_every_step_and_point():
    drawn = [each for seed in range(NUM_DRAWN) for each in draw_planned(CASES["lora with dropout"], seed)]
    assert {each.point for each in drawn} == set(CASES["lora with dropout"].points)
    assert {each.step for each in drawn} == set(range(NUM_STEPS))
    assert {each.place % GLOBAL_BATCH for each in drawn} - {0}


def test_the_validation_loss_is_that_of_all_rows_however_often_they_are_halved():
    case, told = CASES["lora with dropout"], Told()
    validation = make_samples([9, 31, 4, 17, 6, 12], seed=9)
    run, roomy = (dataclasses.replace(make_training(case, told=each), validation=validation) for each in (told, None))
    evaluate = run.loss_model.evaluate

    def short_evaluate(batch):
        if len(batch.lengths) > 1:
            raise MemoryError
        return evaluate(batch)

    run.loss_model.evaluate = short_evaluate
    assert evaluate_loss(run, 3) == pytest.approx(evaluate_loss(roomy, 3), rel=1e-10)
    (incident,) = told.incidents
    assert incident.text.startswith("after step 3: out of memory while the validation loss was measured")


def test_answers_in_training_are_the_same_with_fewer_rows_at_a_time(monkeypatch):
    run = make_training(Case())
    rows = make_rows(["7", "", "5", "well", "9"])
    live = make_live(run.model, rows, metrics=("answer_length", "loss"), batch_rows=4)
    expected = live.measure()
    step, told = engine._Decoder.step, []

    def short_step(decoder):
        if len(decoder.rows) > 2:
            raise MemoryError
        step(decoder)

    monkeypatch.setattr(engine._Decoder, "step", short_step)
    assert live.measure(told.append) == pytest.approx(expected, rel=1e-10) and told == ["rows was answered"]


def test_a_run_whose_steps_are_timed_begins_with_the_passes_that_fitted_then(calm):
    told = Told()
    run = make_training(CASES["lora with dropout"], told=told)
    memory = ShortMemory(run, most_samples=2)
    start = values(run)
    assert measure_step(run).seconds > 0
    run_steps(run)
    assert {incident.step for incident in told.incidents} == {1}
    assert len(memory.raised) == len(told.incidents) and run.room.at(0).num_parts == 2 ** len(told.incidents)
    assert distance(values(run) - start, calm["lora with dropout"].moved) < 1e-10
