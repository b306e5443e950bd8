"""Law: two ranks compute what one computes: loss, gradient norm, update and validation loss."""

import hashlib
import json
from pathlib import Path

import pytest
import rank_cases
import torch
from rank_launcher import launch
from safetensors.torch import load_file
from tiny import attach, distance, tiny_llama

from whet.parallel.env import Env
from whet.recipe.schema import Adapter

WORLD_SIZE = 2


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """[(numbers, updates)] of each rank of one launch over gloo on the loopback."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(Path(rank_cases.__file__), str(folder), num_ranks=WORLD_SIZE, timeout_seconds=150)
    return [
        (json.loads((folder / f"rank-{r}.json").read_text()), load_file(folder / f"rank-{r}.safetensors"))
        for r in range(WORLD_SIZE)
    ]


@pytest.fixture(scope="module")
def alone():
    return rank_cases.results(Env())


@pytest.mark.parametrize("case", rank_cases.CASES)
def test_two_ranks_train_as_one_does(launched, alone, case):
    is_wide = rank_cases.CASES[case][0] == torch.float64
    numbers, moved = alone[0][case], alone[1][case]
    for document, updates in launched:
        found = document["cases"][case]
        assert found["hashes"] == numbers["hashes"] and found["taught"] == numbers["taught"]
        assert found["losses"] == pytest.approx(numbers["losses"], rel=1e-10 if is_wide else 0, abs=1e-6)
        assert found["norms"] == pytest.approx(numbers["norms"], rel=1e-10 if is_wide else 1e-5)
        assert distance(updates[case], moved) < (1e-10 if is_wide else 1e-3)


@pytest.mark.parametrize("case", rank_cases.CASES)
def test_five_validation_rows_over_two_ranks_are_each_counted_once(launched, alone, case):
    is_wide = rank_cases.CASES[case][0] == torch.float64
    loss, token_accuracy, num_taught = alone[0][case]["eval"]
    for document, _ in launched:
        found = document["cases"][case]["eval"]
        assert found[1:] == [token_accuracy, num_taught]
        assert found[0] == pytest.approx(loss, abs=1e-10 if is_wide else 1e-5)


def test_answers_in_training_and_what_they_decide_do_not_depend_on_the_number_of_ranks(launched):
    alone = rank_cases.live_answers(Env())
    assert alone["measured"][0] != alone["measured"][-1], "training changes the answers"
    first, second = (document["live"] for document, _ in launched)
    assert first == second, "the same bits on all ranks"
    assert first["decided"] == alone["decided"]
    assert first["state"] == alone["state"] | {"best_metric": pytest.approx(alone["state"]["best_metric"], rel=1e-10)}
    for found, expected in zip(first["measured"], alone["measured"], strict=True):
        rounded = {name: pytest.approx(expected[name], rel=1e-10) for name in ("loss", "rows/loss")}
        assert found == expected | rounded


@pytest.mark.parametrize("case", rank_cases.CASES)
def test_all_ranks_hold_the_same_bits(launched, case):
    first, *others = [updates[case] for _, updates in launched]
    assert all(torch.equal(first, other) for other in others)


def test_all_ranks_hear_of_a_checkpoint_after_the_same_step_although_one_alone_writes(launched):
    first, *others = [document["saves"] for document, _ in launched]
    assert all(other == first for other in others)
    assert [step for step, _ in first] == [3, 6, 9]
    assert all(heard_after >= step for step, heard_after in first)


def test_every_rank_gets_the_factors_and_the_start_of_the_first(launched):
    own = attach(tiny_llama(torch.float32), Adapter(rank=4, init="pissa_fast"), seed=0).all_values.values()
    expected = torch.cat([t.detach().reshape(-1) for t in own]).numpy().tobytes()
    for document, _ in launched:
        assert document["agreement"]["adapter"] == hashlib.sha256(expected).hexdigest()


def test_ranks_agree_on_requests_sums_and_what_the_first_rank_says(launched):
    for document, _ in launched:
        assert document["agreement"] | {"adapter": None} == {
            "adapter": None,
            # one rank asked for a checkpoint
            "requests": [True, False, False],
            "summed": [3.0],
            # the last rank had no gradient
            "gradient": [1.0, 2.0],
            "broadcast": [0.0, 0.0, 0.0],
            "text": "from rank 0 \u00e4",
            # of different lengths, in bytes that are not letters; and nothing to say at all
            "texts": [["", "\u00e4\u00e4\u00e4"], ["", ""]],
            "sum": [1.0, 2e-12],
        }
