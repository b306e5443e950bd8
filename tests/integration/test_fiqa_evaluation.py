"""`python3 evaluate_fiqa.py` as the FiQA project's guide types it, on a tiny model: its flags and its files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_evaluations

PROGRAM = Path(__file__).parents[2] / "evaluate_fiqa.py"
METRICS = "token_f1, rouge1, bleu, perplexity, answer_length, seconds_per_example"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fiqa")
    run = tiny_evaluations.write_run(folder, num_rows=8, metrics=METRICS)
    final = run / "final_model"
    final.mkdir()
    for path in run.glob("adapter_*"):
        shutil.copy(path, final)
    return folder


def evaluate_fiqa(place: Path, *arguments: str) -> str:
    """What it said; the working folder is `place/work`."""
    (place / "work").mkdir(exist_ok=True)
    environment = os.environ | {"WHET_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        env=environment, capture_output=True, text=True, timeout=120, cwd=place / "work",
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def read(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_base_and_adapter_are_compared_and_the_plan_s_files_are_there(place):
    said = evaluate_fiqa(
        place, "--peft-model", str(place / "run" / "final_model"), "--compare-base", "--max-samples", "5",
        "--verbose", "--resume", "--checkpoint-dir", "somewhere", "--checkpoint-interval", "50",
    )  # fmt: skip
    assert "the options about checkpoints change nothing" in said
    assert said.count("prediction:") == 3
    folder = place / "work" / "results"
    found = read(folder / "eval_results.json")
    assert set(found) == {"peft", "base", "comparison"}
    assert list(found["peft"]["metrics"]) == METRICS.split(", ")
    assert found["peft"]["num_samples"] == 5 and len(found["peft"]["metrics"]["token_f1"]["scores"]) == 5
    for name, result in (("baseline", "base"), ("peft", "peft")):
        assert read(folder / f"{name}_results.json") == found[result]
    report = read(folder / "comparison_report.json")
    assert report["comparison"] == found["comparison"]
    for metric, numbers in found["comparison"].items():
        assert numbers["base"] == pytest.approx(found["base"]["metrics"][metric]["mean"])
        assert numbers["peft"] == pytest.approx(found["peft"]["metrics"][metric]["mean"])
        assert numbers["improvement"] == pytest.approx(numbers["peft"] - numbers["base"])
    assert (place / "run" / "evaluations" / "sums" / "tuned.jsonl").is_file()


def test_the_base_alone_and_the_adapter_alone(place):
    base = str(place / "base")
    evaluate_fiqa(
        place, "--peft-model", "none", "--base-model", base, "--recipe", str(place / "run" / "recipe.yaml"),
        "--output", "base/out.json",
    )  # fmt: skip
    assert set(read(place / "work" / "base" / "out.json")) == {"base"}
    assert not (place / "work" / "base" / "peft_results.json").exists()
    evaluate_fiqa(
        place, "--peft-model", str(place / "run"), "--output", "tuned/out.json", "evaluate.0.max_new_tokens=9",
        "--no-checkpoint",
    )  # fmt: skip
    assert set(read(place / "work" / "tuned" / "out.json")) == {"peft"}
    assert read(place / "work" / "tuned" / "out.json")["peft"]["decoding"] == "greedy, at most 9 new tokens"
