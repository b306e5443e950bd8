"""`whet evaluate` killed with SIGKILL goes on where it was, and leaves the files of an evaluation that nothing hit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_evaluations

from whet.atomic import write_text

# 40 rows in portions of 8, answered twice; gold answers in blocks of 16
KILLED = """
import os, signal, sys
from whet.cli.main import main
from whet.evaluation import answers, run
generate, left = answers.generate, int(sys.argv.pop(1))
measure = run.gold_likelihoods
def measuring(loaded, template, examples):
    print("measured", len(examples), flush=True)
    return measure(loaded, template, examples)
run.gold_likelihoods = measuring
def counting(model, prompts, *, on_finished, **others):
    def finished(index, num_finished):
        global left
        on_finished(index, num_finished)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    print("asked", len(prompts), flush=True)
    return generate(model, prompts, on_finished=finished, **others)
answers.generate = counting
main()
"""
FILES = ("base.jsonl", "tuned.jsonl", "comparison.json")
KINDS = ("summary.json", "likelihoods.jsonl")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    tiny_evaluations.write_run(folder, num_rows=40, metrics="answer_accuracy, loss, rougeL")
    return folder


def evaluate(folder: Path, cache: Path, *arguments: str, dies_at: int = -1) -> tuple[int, int, str]:
    """(exit code, rows asked, what it said)"""
    command = [sys.executable, "-c", KILLED, str(dies_at), "evaluate", str(folder), *arguments]
    environment = os.environ | {"WHET_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    said = process.stdout + process.stderr
    asked = sum(int(line.split()[1]) for line in said.splitlines() if line.startswith("asked "))
    return process.returncode, asked, said


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "evaluations" / "sums" / name).read_bytes() for name in FILES}


def summaries(folder: Path) -> list[dict[str, object]]:
    texts = [(folder / "evaluations" / "sums" / f"{model}.summary.json").read_text() for model in ("base", "tuned")]
    times = ("seconds", "row_seconds")
    return [{k: v for k, v in json.loads(text).items() if k not in times} for text in texts]


def test_a_killed_evaluation_goes_on_and_ends_with_the_same_files(original, tmp_path):
    run = original / "run"
    code, asked, said = evaluate(run, tmp_path / "undisturbed")
    assert (code, asked) == (0, 80), said
    whole, facts = contents(run), summaries(run)
    shutil.rmtree(run / "evaluations")
    # in the base's third portion, then in the tuned model's second: rows of whole portions are not asked again
    code, asked, _ = evaluate(run, tmp_path / "cache", dies_at=21)
    assert (code, asked) == (-signal.SIGKILL, 24)
    code, asked, said = evaluate(run, tmp_path / "cache", dies_at=24 + 12)
    assert (code, asked) == (-signal.SIGKILL, 24 + 16), said
    assert "16 rows before" in said
    code, asked, said = evaluate(run, tmp_path / "cache")
    assert (code, asked) == (0, 32), said
    # the base's and the tuned model's first blocks were on the disk
    assert said.count("measured 16") + said.count("measured 8") == 2, said
    assert contents(run) == whole
    assert summaries(run) == facts
    left = {path.name for path in (run / "evaluations" / "sums").iterdir()}
    assert left == {*FILES, *(f"{model}.{kind}" for model in ("base", "tuned") for kind in KINDS)}
    rows = [json.loads(line) for line in whole["tuned.jsonl"].splitlines()]
    assert all(list(row["scores"]) == ["answer_accuracy", "loss", "rougeL"] for row in rows)


def test_nothing_fits_into_no_time_but_the_first_rows_and_nemo_s_rows_are_written(original, tmp_path):
    run = shutil.copytree(original / "run", tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    code, asked, said = evaluate(
        run, tmp_path / "cache", "--max-seconds", "0", "--nemo-rows", str(tmp_path / "peft.jsonl")
    )
    assert (code, asked) == (0, 16), said
    assert "the first 8 of 40 rows were answered and are compared" in said
    rows = [json.loads(line) for line in (tmp_path / "peft.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{"input", "label", "prediction"}] * 8


def test_the_guide_s_inference_command_answers_from_run_and_adapter_folder(original, tmp_path):
    """As it is typed: `python inference.py --model_path FOLDER --prompt "..."`."""
    adapter = tmp_path / "adapter"
    shutil.copytree(original / "run", adapter, ignore=shutil.ignore_patterns("evaluations", "recipe.yaml"))
    recipe = tmp_path / "r.yaml"
    write_text(recipe, (original / "run" / "recipe.yaml").read_text())
    prompt = "Solve: If a train travels 120 miles in 2 hours, what is its average speed?"
    program = str(Path(__file__).parents[2] / "inference.py")
    said = []
    for model in ([str(original / "run")], [str(adapter), "--config", str(recipe)]):
        command = [sys.executable, program, "--model_path", *model, "--prompt", prompt, "--max_new_tokens", "8"]
        process = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert process.returncode == 0, process.stderr
        said.append(process.stdout)
    assert said[0] == said[1] and len(said[0]) > 4
    assert prompt not in said[0]
    nowhere = subprocess.run(
        [sys.executable, program, "--model_path", str(adapter), "--prompt", prompt], capture_output=True, text=True
    )
    assert nowhere.returncode == 2 and "its base must be named" in nowhere.stderr


def validate(folder: Path, *arguments: str) -> tuple[int, str]:
    """(exit code, what it said) of the guide's script"""
    program = str(Path(__file__).parents[2] / "validate_config.py")
    environment = os.environ | {"WHET_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, program, *arguments], env=environment, capture_output=True, text=True, timeout=120, cwd=folder
    )
    return process.returncode, process.stdout + process.stderr


def test_the_guide_s_validation_command_checks_a_config_and_evaluates_a_checkpoint(original, tmp_path):
    """As it is typed: `python validate_config.py --config CONFIG --checkpoint FOLDER`."""
    run = shutil.copytree(original / "run", tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    config = tmp_path / "config.yaml"
    recipe = (run / "recipe.yaml").read_text().replace(f"output: {original / 'run'}", f"output: {tmp_path / 'out'}")
    write_text(config, recipe)
    code, said = validate(tmp_path, "--config", str(config))
    assert code == 0 and f"ok  {config}" in said, said
    code, said = validate(tmp_path, "--config", str(config), "--checkpoint", str(run))
    assert code == 0 and "tuned answered 40 rows" in said, said
    assert "report:" in said and (run / "evaluations" / "sums" / "comparison.json").is_file()
    # a checkpoint inside the run brings no recipe: the config's test set, in a folder of its own, and the same answers
    checkpoint = run / "checkpoint-3"
    checkpoint.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(run / name, checkpoint)
    code, said = validate(tmp_path, "--config", str(config), "--checkpoint", str(checkpoint))
    assert code == 0 and "base answered before" in said, said
    own = tmp_path / "out" / "evaluated" / "checkpoint-3" / "evaluations" / "sums" / "tuned.jsonl"
    assert own.read_bytes() == (run / "evaluations" / "sums" / "tuned.jsonl").read_bytes()
    code, said = validate(tmp_path, "--config", str(config), "--checkpoint", str(tmp_path))
    assert code == 5 and "no final weights" in said


def test_the_guide_s_validation_command_refuses_what_cannot_be_run(original, tmp_path):
    bad = tmp_path / "configs" / "deep" / "bad.yaml"
    write_text(bad, (original / "run" / "recipe.yaml").read_text().replace("adapter:", "adaptor:"))
    code, said = validate(tmp_path, "--config", str(bad))
    assert code == 2 and "adaptor" in said and "bad.yaml" in said
    code, said = validate(tmp_path, "--all")
    assert code == 2 and "1 of 1 files cannot be run" in said
    write_text(bad, (original / "run" / "recipe.yaml").read_text())
    code, said = validate(tmp_path, "--all")
    assert code == 0 and "ok  configs/deep/bad.yaml" in said
    assert validate(tmp_path)[0] == 2
