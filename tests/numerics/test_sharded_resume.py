"""Law: a run whose state is spread over ranks goes on with fewer ranks, or otherwise spread, as if never stopped.

Three launches: a process alone, four ranks, two ranks (tests/support/shard_cases.py). float32, so tolerances of design
decision 21; where nothing changed, bit for bit.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import shard_cases
import torch
from rank_launcher import run_ranks
from safetensors.torch import load_file
from shard_cases import CASES, LAST
from tiny import distance
from torch.distributed.checkpoint import DefaultLoadPlanner, HuggingFaceStorageReader
from transformers import LlamaForCausalLM

from whet.cache import digest_of
from whet.checkpoint.load import open_checkpoint
from whet.checkpoint.names import list_steps, weight_shards
from whet.export import EXPORTS, Request
from whet.models.weight_files import list_tensors, read_tensor

# a minute of two processors; a busy machine takes longer
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ON_FOUR = ("fsdp", "again", "hsdp", "tensor", "tensor, an adapter")
ON_TWO = ("on 2 from fsdp", "on 2 as copies", "on 2 from 1", "on 2 sharing layers", "killed")
ON_ONE = ("on 1 from fsdp", "on 1 from hsdp", "on 1 from tensor", "on 1 from tensor, an adapter")
GOES_ON = [name for name, case in CASES.items() if case.goes_on and case.goes_on != "killed"]


def launch(folder: Path, names: tuple[str, ...], *, world_size: int) -> list[int]:
    """Exit codes of ranks that run the cases `names` one after another; all of them end well but for a last kill."""
    script = Path(shard_cases.__file__)
    ends = run_ranks(script, str(folder), *names, num_ranks=world_size, timeout_seconds=400)
    codes = [end.exit_code for end in ends]
    assert names[-1] == "killed" or not any(codes), "\n".join(end.said for end in ends)
    return codes


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The folder in which all cases have run; the last launch lost a rank."""
    folder = tmp_path_factory.mktemp("sharded")
    shard_cases.write_place(folder)
    for name in ("alone", "alone, an adapter"):
        shard_cases.run_case(folder, name)
    launch(folder, ON_FOUR, world_size=4)
    codes = launch(folder, ON_TWO, world_size=2)
    assert codes[1] == -signal.SIGKILL and codes[0] not in (0, -signal.SIGKILL)
    for name in ON_ONE:
        shard_cases.run_case(folder, name)
    return folder


def steps_of(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "step"]


def weights_of(run: Path) -> torch.Tensor:
    """The final weights in one vector."""
    (path,) = [run / name for name in ("model.safetensors", "adapter_model.safetensors") if (run / name).is_file()]
    return torch.cat([tensor.reshape(-1).double() for _, tensor in sorted(load_file(path).items())])


@pytest.mark.parametrize("name", [*(n for n in ON_FOUR if n != "again"), *GOES_ON])
def test_the_same_run_whoever_holds_what_and_whoever_goes_on(place, name):
    """Same samples in the same order; losses, gradient norms and the whole update as of one process."""
    kind = "alone, an adapter" if "an adapter" in name else "alone"
    found, expected = steps_of(place / name), steps_of(place / kind)
    assert [step["step"] for step in found] == list(range(1, LAST + 1))
    assert [step["batch_hash"] for step in found] == [step["batch_hash"] for step in expected]
    assert [step["loss"] for step in found] == pytest.approx([step["loss"] for step in expected], abs=1e-6)
    assert [step["grad_norm"] for step in found] == pytest.approx([step["grad_norm"] for step in expected], rel=1e-5)
    # without Adam's moments, or with another's, the second half would go another way
    start = 0.0 if "an adapter" in name else weights_of(place / "base")
    assert distance(weights_of(place / name) - start, weights_of(place / kind) - start) < 1e-3


def test_what_goes_on_unchanged_ends_in_the_same_bits(place):
    first, again = steps_of(place / "fsdp"), steps_of(place / "again")
    same = ("step", "loss", "lr", "grad_norm", "batch_hash")
    assert [[step[key] for key in same] for step in first] == [[step[key] for key in same] for step in again]
    for path in [place / "fsdp" / "model.safetensors", *(place / "fsdp" / f"checkpoint-{LAST}").glob("*.safetensors")]:
        assert digest_of(path) == digest_of(place / "again" / path.relative_to(place / "fsdp"))


def test_checkpoints_of_all_ranks_are_whole_and_free_of_pickles(place):
    for name in ("fsdp", "hsdp", "tensor", "on 2 from 1", "on 2 sharing layers"):
        for step in list_steps(place / name):
            folder = open_checkpoint(place / name / f"checkpoint-{step}").folder
            assert {path.suffix for path in folder.iterdir()} <= {".safetensors", ".json", ".yaml", ".jinja", ".txt"}
    assert not [path for path in place.rglob("*") if path.name == ".metadata" or path.suffix in (".pt", ".distcp")]


def test_each_number_is_written_by_one_rank(place):
    """Also where ranks hold copies: the shards are as large as the files of one process."""
    alone = place / "alone" / f"checkpoint-{LAST}"
    num_bytes = sum(tensor.nbytes for tensor in load_file(alone / "model.safetensors").values())
    for name, num_files in (("fsdp", 4), ("hsdp", 2), ("tensor", 4), ("on 2 from 1", 2)):
        shards = weight_shards(place / name / f"checkpoint-{LAST}")
        assert len(shards) == num_files
        assert sum(tensor.nbytes for path in shards for tensor in load_file(path).values()) == num_bytes


def test_torchs_reader_finds_the_final_model_in_the_shards(place):
    folder, final = place / "fsdp" / f"checkpoint-{LAST}", load_file(place / "fsdp" / "model.safetensors")
    found = {name: torch.zeros_like(tensor) for name, tensor in final.items()}
    reader, planner = HuggingFaceStorageReader(str(folder)), DefaultLoadPlanner()
    planner.set_up_planner(found, reader.read_metadata(), is_coordinator=True)
    reader.set_up_storage_reader(planner.metadata, is_coordinator=True)
    reader.read_data(planner.create_local_plan(), planner).wait()
    assert all(torch.equal(found[name], tensor) for name, tensor in final.items())


def test_the_final_model_is_a_folder_for_transformers_and_so_is_an_exported_checkpoint(place, tmp_path):
    final = dict(LlamaForCausalLM.from_pretrained(place / "fsdp").named_parameters())
    request = Request(run_folder=place / "fsdp" / f"checkpoint-{LAST}", output=tmp_path / "hf", say=lambda _: None)
    exported = dict(LlamaForCausalLM.from_pretrained(EXPORTS["hf"](request)).named_parameters())
    assert final.keys() == exported.keys()
    assert all(torch.equal(final[name], tensor) for name, tensor in exported.items())


def test_a_run_that_ends_with_its_best_takes_it_from_the_shards(place):
    run = place / "hsdp"
    best = json.loads((run / "summary.json").read_text())["final_step"]
    stored = list_tensors(weight_shards(run / "checkpoint-best"))
    assert open_checkpoint(run / "checkpoint-best").step == best
    final = load_file(run / "model.safetensors")
    assert all(torch.equal(read_tensor(stored[name]), tensor) for name, tensor in final.items())


def test_an_adapter_stays_one_file_and_its_bytes_are_those_of_equal_values(place):
    run, folder = place / "tensor, an adapter", place / "tensor, an adapter" / f"checkpoint-{LAST}"
    assert {path.name for path in folder.glob("*.safetensors")} == {
        path.name for path in (place / "alone, an adapter" / f"checkpoint-{LAST}").glob("*.safetensors")
    }
    assert digest_of(run / "adapter_model.safetensors") == digest_of(folder / "adapter_model.safetensors")


def test_a_rank_that_dies_while_it_writes_costs_that_checkpoint_alone(place):
    run = place / "killed"
    assert list_steps(run)[0] < LAST and open_checkpoint(run / f"checkpoint-{list_steps(run)[0]}")
    shutil.copytree(run, place / "left")  # what the launch left, for the next assertion
    shard_cases.run_case(place, "on 1 after a kill")
    assert [path.name for path in (place / "left").glob(".checkpoint*")] == [f".checkpoint-{LAST}.tmp"]
    assert not list((place / "on 1 after a kill").glob(".checkpoint*"))
    assert distance(weights_of(place / "on 1 after a kill"), weights_of(place / "alone")) < 1e-3
