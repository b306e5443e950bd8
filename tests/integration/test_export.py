"""`whet merge`, `whet export` and `merge_adapter.py` as users run them: the guide's words, exit codes, bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from whet.cli.export import run_export
from whet.cli.main import leave_by_exit_code

ROOT = Path(__file__).parents[2]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def run(workplace, uninterrupted):
    """A finished run of the tiny model, its base beside it."""
    folder = uninterrupted.copy_to(workplace, is_finished=True)
    (folder / "report.html").unlink(missing_ok=True)
    return folder


@pytest.fixture
def command(capsys):
    """`whet merge` or `export` in this process: (exit code, everything it said)."""

    def run_it(run, to="hf", *, base=None, output=None, dtype="auto"):
        options = {"base": None if base is None else str(base), "output": output, "dtype": dtype, "is_proved": True}
        try:
            leave_by_exit_code(lambda: run_export(run, to, **options))
            code = 0
        except SystemExit as left:
            code = left.code
        said = capsys.readouterr()
        return code, said.out + said.err

    return run_it


def change_config(folder, **values):
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")
    (folder / "manifest.json").unlink(missing_ok=True)  # else a changed file is all that is seen


def change_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    (folder / "manifest.json").unlink()


def foreign(run, folder, *, base_name="somebody/else"):
    """The run's adapter as another tool leaves it: no recipe, no hash, a base named somewhere else."""
    folder.mkdir()
    for name in (WEIGHTS, CONFIG):
        shutil.copy(run / name, folder)
    change_config(folder, auto_mapping=None, base_model_name_or_path=base_name)
    return folder


def test_the_guide_s_merge_command_runs_as_typed(workplace, run):
    command = ["--base_model", str(workplace.model), "--adapter_path", "run", "--output_path", "models/merged"]
    code, said = workplace.run(*command, program=(str(ROOT / "merge_adapter.py"),))
    assert code == 0, said
    assert "read back by transformers" in said and "written: models/merged" in said
    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(workplace.folder / "models" / "merged", use_safetensors=True)
    assert merged.dtype == torch.float32
    assert not list((workplace.folder / "models").glob(".*"))


def test_the_guide_s_merge_command_does_not_publish(workplace, run):
    command = ["--config", "recipe.yaml", "--adapter_path", "run", "--output_path", "merged"]
    program = (str(ROOT / "merge_adapter.py"),)
    code, said = workplace.run(*command, "--push_to_hub", "--hub_model_id", "me/mine", program=program)
    assert code == 2 and "merging and publishing are two steps" in said
    assert not (workplace.folder / "merged").exists()
    code, said = workplace.run(*command, program=program)
    assert code == 0, said


def test_every_format_of_adapters_is_written_beside_the_run(workplace, run):
    for kind in ("adapter", "vllm"):
        code, said = workplace.run("export", "run", "--to", kind)
        assert code == 0, said
        assert (workplace.folder / f"run-{kind}" / "proof.json").is_file()
    assert "--max-lora-rank 8" in said and "vllm serve" in said


def other_base(workplace):
    folder = shutil.copytree(workplace.model, workplace.folder / "other")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 0.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def nan(tensors):
    tensors[A][0, 0] = float("nan")


def wide(tensors):
    tensors[A] = torch.zeros(9, 64)


FAULTS = {
    "factors are missing": (lambda run: change_weights(run, lambda t: t.pop(A)), 5, "lora_A is missing"),
    "keys are left over": (
        lambda run: change_weights(run, lambda t: t.update({"else": torch.zeros(1)})), 5, "is no part of a LoRA"
    ),
    "ranks differ": (lambda run: change_weights(run, wide), 5, "has rank 9 in A and 4 in B"),
    "not finite": (lambda run: change_weights(run, nan), 5, "holds NaN or infinity"),
    "a changed file": (
        lambda run: (run / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes()[:-1] + b"\1"), 5, "SHA-256 differs"
    ),
    "a torn file": (lambda run: (run / WEIGHTS).write_bytes(b"12345678"), 5, "SHA-256 differs"),
    "PiSSA that was not converted": (
        lambda run: change_config(run, init_lora_weights="pissa"), 5, "starts inside the base"
    ),
    "an unfinished run": (lambda run: [p.unlink() for p in run.glob("adapter_*")], 5, "has no final weights"),
    "a link": (lambda run: (run / CONFIG).rename(run / "c") and (run / CONFIG).symlink_to("c"), 5, "symbolic link"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_sentence_an_exit_code_and_nothing_written(workplace, run, command, fault):
    make, expected, sentence = FAULTS[fault]
    make(run)
    code, said = command(run, output=workplace.folder / "out")
    assert code == expected, said
    assert said.startswith("error: ") and sentence in said
    assert not (workplace.folder / "out").exists() and not list(workplace.folder.glob(".out*"))


def test_another_base_than_the_adapter_s_is_refused_by_its_hash(workplace, run, command):
    code, said = command(run, base=other_base(workplace), output=workplace.folder / "out")
    assert code == 5 and "was trained on other base weights" in said
    assert not (workplace.folder / "out").exists()


def test_a_base_named_elsewhere_is_not_followed(workplace, run, command):
    elsewhere = other_base(workplace)
    adapter = foreign(run, workplace.folder / "foreign", base_name=str(elsewhere))
    code, said = command(adapter, output=workplace.folder / "out")
    assert code == 2 and "is not followed" in said and "add --base MODEL" in said
    change_config(run, base_model_name_or_path=str(elsewhere))
    code, said = command(run, output=workplace.folder / "out")
    assert code == 0, said
    ours, base, other = (
        load_file(folder / "model.safetensors")["model.norm.weight"]
        for folder in (workplace.folder / "out", workplace.model, elsewhere)
    )
    assert torch.equal(ours, base) and not torch.equal(ours, other)


def test_a_foreign_adapter_is_merged_with_a_word_that_its_base_could_not_be_checked(workplace, run, command):
    adapter = foreign(run, workplace.folder / "foreign")
    code, said = command(adapter, base=workplace.model, output=workplace.folder / "out")
    assert code == 0, said
    assert "only names and shapes were checked" in (workplace.folder / "out" / "README.md").read_text(encoding="utf-8")


def test_a_folder_of_pickles_is_not_opened(workplace, run, command, plant_bombs):
    folder = foreign(run, workplace.folder / "foreign")
    plant_bombs(folder, workplace.folder / "canary")
    code, said = command(folder, base=workplace.model, output=workplace.folder / "out")
    assert code == 0, said
    (folder / WEIGHTS).unlink()
    code, said = command(folder, base=workplace.model, output=workplace.folder / "out2")
    assert code == 2 and "only as a pickle" in said and "never opened" in said
    assert not (workplace.folder / "out2").exists()
    assert not (workplace.folder / "canary").exists()


def test_what_is_there_already_is_left_alone(workplace, run, command):
    (workplace.folder / "out").mkdir()
    (workplace.folder / "out" / "mine").write_text("mine", encoding="utf-8")
    code, said = command(run, output=workplace.folder / "out")
    assert code == 5 and "exists already" in said
    assert [p.name for p in (workplace.folder / "out").iterdir()] == ["mine"]


BREAK_THE_WRITER = """
import sys
from whet.models import merge
exact = merge.merged_weight
merge.merged_weight = lambda weight, layer: exact(weight, layer) * 1.01
sys.argv = ["whet", "merge", "run", "--output", "out"]
from whet.cli.main import main
main()
"""


def test_a_merge_that_is_not_the_trained_model_exits_with_8_and_leaves_nothing(workplace, run):
    code, said = workplace.run(program=("-c", BREAK_THE_WRITER))
    assert code == 8, said
    assert "is not the model that was trained" in said
    assert not (workplace.folder / "out").exists() and not list(workplace.folder.glob(".out*"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"to": "onnx"}, "there is no format 'onnx'"),
        ({"dtype": "int3"}, "there is no dtype 'int3'"),
        ({"dtype": "q8_0"}, "a merged model has no dtype q8_0"),
        ({"to": "adapter", "dtype": "q8_0"}, "an adapter has no dtype q8_0"),
    ],
)
def test_what_there_is_not_is_named_with_what_there_is(run, command, options, sentence):
    code, said = command(run, **options)
    assert code == 2 and sentence in said


def test_a_run_that_is_not_there_is_said(command, tmp_path):
    code, said = command(tmp_path / "nowhere")
    assert code == 2 and "no such folder" in said


MEASURE = """
import sys
from pathlib import Path

def kilobytes(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])

import peft, transformers, whet.export
from transformers import LlamaConfig, LlamaForCausalLM
LlamaForCausalLM(LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
baseline = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
from whet.cli.export import run_export
run_export(Path(sys.argv[1]), "hf", base=None, output=Path(sys.argv[2]), dtype="auto", is_proved=sys.argv[3] == "proof")
print("peak", 1024 * (kilobytes("VmHWM") - baseline))
"""


def write_smollm2_run(folder: Path) -> int:
    """An untrained adapter of the built-in model's real size, moved from zero; returns the model's bytes."""
    from tiny import attach, perturb

    from whet.models.load import load_pretrained
    from whet.recipe.schema import Adapter, Model

    loaded = load_pretrained(Model(dtype="float32"), device=torch.device("cpu"))
    num_bytes = sum(p.numel() * 4 for p in loaded.model.parameters())
    trainables = attach(loaded.model, Adapter(rank=16, alpha=32.0))
    perturb(trainables, size=0.01)
    trainables.documents[CONFIG]["auto_mapping"]["base_weights_sha256"] = loaded.identity.weights_sha256
    folder.mkdir()
    save_file({n: t.detach().contiguous() for n, t in trainables.tensors().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(trainables.documents[CONFIG]), encoding="utf-8")
    recipe = "name: a\noutput: b\nmodel: {id: smollm2-135m-instruct}\ndata: {train: [{source: rows.jsonl}]}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return num_bytes


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.smollm2
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of peak memory")
def test_merging_smollm2_takes_less_than_one_and_a_half_times_its_own_memory(tmp_path):
    num_bytes = write_smollm2_run(tmp_path / "run")
    for proof, limit in (("none", 1.0), ("proof", 1.5)):
        process = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path / "run"), str(tmp_path / proof), proof],
            capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=280,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        assert int(process.stdout.split()[-1]) < limit * num_bytes
