"""Law: ranks that share each layer compute what one rank computes: loss, gradient norm, update, answers and files."""

import json
from pathlib import Path

import pytest
import tensor_cases
import torch
from rank_launcher import launch
from safetensors.torch import load_file
from tensor_cases import ANSWERED, CASES, RUNS
from tiny import distance

from whet.parallel.env import Env
from whet.parallel.mesh import layout_of
from whet.recipe.schema import Parallel

pytestmark = pytest.mark.slow
WORLD_SIZE = 4


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """[(numbers, tensors)] of each rank of one launch over gloo on the loopback."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(Path(tensor_cases.__file__), str(folder), num_ranks=WORLD_SIZE)
    return [
        (json.loads((folder / f"rank-{r}.json").read_text()), load_file(folder / f"rank-{r}.safetensors"))
        for r in range(WORLD_SIZE)
    ]


@pytest.fixture(scope="module")
def alone():
    """{case: (numbers, ways of the trained parameters, the run)} of one rank."""
    return {name: tensor_cases.alone(name) for name in CASES}


@pytest.mark.parametrize("run", RUNS)
def test_ranks_that_share_layers_train_as_one_does(ranks, alone, run):
    name, _, _ = RUNS[run]
    numbers, ways, _ = alone[name]
    is_wide = CASES[name].dtype == torch.float64
    expected = torch.cat([ways[key].reshape(-1) for key in sorted(ways)])
    assert expected.norm() > 0
    for document, tensors in ranks:
        found = document[run]
        assert found["losses"] == pytest.approx(numbers["losses"], rel=1e-10 if is_wide else 0, abs=1e-6)
        assert found["norms"] == pytest.approx(numbers["norms"], rel=1e-10 if is_wide else 1e-5)
        assert found["eval"][1:] == numbers["eval"][1:]
        assert found["eval"][0] == pytest.approx(numbers["eval"][0], abs=1e-10 if is_wide else 1e-5)
        moved = torch.cat([tensors[f"{run}/{key}"].reshape(-1) for key in sorted(ways)])
        assert distance(moved, expected) < (1e-10 if is_wide else 1e-3)


@pytest.mark.parametrize("run", RUNS)
def test_all_ranks_hold_the_same_bits_of_what_is_not_split(ranks, run):
    assert len({document[run]["held by all"] for document, _ in ranks}) == 1


def test_ranks_that_share_layers_see_the_rows_of_their_data_rank(ranks, alone):
    """The hash of a step is over all ranks' rows in their global order."""
    for run, (name, _, _) in RUNS.items():
        assert all(document[run]["hashes"] == alone[name][0]["hashes"] for document, _ in ranks)


def test_the_adapter_file_of_all_ranks_is_that_of_one(ranks, alone):
    num_compared = 0
    for run, (name, _, _) in RUNS.items():
        prefix = f"{run}/file/"
        saved = {key.removeprefix(prefix): t for key, t in ranks[0][1].items() if key.startswith(prefix)}
        if not saved:
            continue
        expected = tensor_cases.adapter_file(alone[name][2], alone[name][2].layout)
        shapes, expected_shapes = ({k: (t.shape, t.dtype) for k, t in each.items()} for each in (saved, expected))
        assert shapes == expected_shapes
        for key, tensor in saved.items():
            is_wide = CASES[name].dtype == torch.float64
            torch.testing.assert_close(tensor, expected[key], rtol=0, atol=1e-10 if is_wide else 1e-4)
        num_compared += 1
    assert num_compared == 4


def test_answers_in_training_are_those_of_one_rank(ranks, alone):
    one = layout_of(Parallel(), Env(), strategy="replicate")
    name, _, _ = RUNS[ANSWERED]
    expected = tensor_cases.answers(alone[name][2], Env(), one)
    for document, _ in ranks:
        assert document[ANSWERED]["answers"] == pytest.approx(expected, rel=1e-10)


def test_the_fused_functions_compute_the_parts_too(ranks, alone):
    for run, (name, _, _) in RUNS.items():
        assert {document[run]["fused"] for document, _ in ranks} == {alone[name][0]["fused"]}
    assert "in 2 blocks" in alone["lora on all layers with dropout"][0]["fused"]
