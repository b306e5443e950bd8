"""Law: who holds which weights changes no number. One process, whet's all-reduce, FSDP, HSDP and torch's own
DistributedDataParallel make the same losses, gradient norms and updates, over two and over four ranks."""

import json
from pathlib import Path

import pytest
import strategy_cases
import torch
from rank_launcher import launch
from safetensors.torch import load_file
from strategy_cases import ASKED_MORE, CASES, EVEN, RUN
from tiny import distance

from whet.parallel.env import Env
from whet.parallel.mesh import Layout

pytestmark = pytest.mark.slow
STRATEGIES = {2: ("replicate", "fsdp"), 4: ("fsdp", "hsdp")}
RUNS = pytest.mark.parametrize(("ran", "case"), [(ran, case) for ran, cases in RUN.items() for case in cases], ids=str)
# products and sums of float64 in another order; of float32, and of bfloat16, where a step of Adam turns the last
# digits of small gradients into digits of the update
LOSS = {torch.float64: 1e-10, torch.float32: 1e-6, torch.bfloat16: 1e-2}
UPDATE = {torch.float64: 1e-10, torch.float32: 1e-3, torch.bfloat16: 0.1}


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """(number of ranks, strategy) -> [(document, tensors)] of each rank."""
    found = {}
    for num_ranks, strategies in STRATEGIES.items():
        folder = tmp_path_factory.mktemp(f"ranks-{num_ranks}")
        launch(Path(strategy_cases.__file__), str(folder), *strategies, num_ranks=num_ranks)
        for strategy in (*strategies, "torch"):
            found[num_ranks, strategy] = [
                (
                    json.loads((folder / f"{strategy}-{rank}.json").read_text()),
                    load_file(folder / f"{strategy}-{rank}.safetensors"),
                )
                for rank in range(num_ranks)
            ]
    return found


@pytest.fixture(scope="module")
def alone():
    return strategy_cases.results(Env(), Layout())


@pytest.fixture(scope="module")
def answered_alone():
    return strategy_cases.live_answers(Env(), Layout())


def dtype_of(case):
    return torch.bfloat16 if CASES[case].uses_autocast else CASES[case].dtype


@RUNS
def test_ranks_train_as_one_process_does(launched, alone, ran, case):
    expected, dtype = alone.numbers[case], dtype_of(case)
    for document, tensors in launched[ran]:
        found = document["cases"][case]
        assert found["hashes"] == expected["hashes"]
        assert found["losses"] == pytest.approx(expected["losses"], rel=LOSS[dtype])
        assert found["norms"] == pytest.approx(expected["norms"], rel=10 * LOSS[dtype])
        assert distance(tensors[case], alone.moved[case]) < UPDATE[dtype]


@RUNS
def test_validation_rows_are_each_counted_once(launched, alone, ran, case):
    loss, token_accuracy, num_taught = alone.numbers[case]["eval"]
    for document, _ in launched[ran]:
        found = document["cases"][case]["eval"]
        assert found[2] == num_taught
        assert found[0] == pytest.approx(loss, rel=LOSS[dtype_of(case)])
        if dtype_of(case) != torch.bfloat16:
            assert found[1] == token_accuracy


@RUNS
def test_all_ranks_end_with_the_same_bits(launched, ran, case):
    (document, tensors), *others = launched[ran]
    for other_document, other_tensors in others:
        assert torch.equal(other_tensors[case], tensors[case])
        for key in ("losses", "norms", "eval"):
            assert other_document["cases"][case][key] == document["cases"][case][key]


@pytest.mark.parametrize("which", EVEN)
@pytest.mark.parametrize("ran", RUN, ids=str)
def test_torchs_own_data_parallelism_computes_the_same(launched, ran, which):
    theirs, their_tensors = launched[ran[0], "torch"][0]
    losses, norms = theirs[which]
    document, tensors = launched[ran][0]
    assert document[which][0] == pytest.approx(losses, rel=1e-10)
    assert document[which][1] == pytest.approx(norms, rel=1e-10)
    assert distance(tensors[which], their_tensors[which]) < 1e-10


@pytest.mark.parametrize("ran", [(2, "fsdp"), (4, "fsdp"), (4, "hsdp")], ids=str)
def test_between_steps_a_rank_holds_its_part_alone(launched, ran):
    num_shards = 2 if ran == (4, "hsdp") else ran[0]
    for document, _ in launched[ran]:
        held, num_all = document["cases"]["all weights"]["held"]
        # norms are whole on every rank, and 500 tokens are not a multiple of everything
        assert held < 1.02 * num_all / num_shards


@pytest.mark.parametrize("ran", ASKED_MORE, ids=str)
def test_answers_between_steps_do_not_depend_on_who_holds_the_weights(launched, answered_alone, ran):
    expected = answered_alone
    assert expected[0] != expected[-1], "training changes the answers"
    for document, _ in launched[ran]:
        for found, wanted in zip(document["live"], expected, strict=True):
            assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("ran", ASKED_MORE, ids=str)
def test_all_ranks_stop_where_the_loss_of_one_is_no_number(launched, ran):
    (said,) = {document["non-finite"] for document, _ in launched[ran]}
    assert said.startswith("NonFiniteError: samples the poisoned sample: step 1: loss nan")
    assert "the base is at fault" in said and "model.embed_tokens, its output" in said and "on rank " in said


@pytest.mark.parametrize("ran", ASKED_MORE, ids=str)
def test_a_run_whose_steps_were_timed_first_begins_like_another(launched, alone, ran):
    for document, _ in launched[ran]:
        first = alone.numbers["all weights"]["losses"][0]
        assert document["measured before"] == pytest.approx(first, rel=1e-10)
