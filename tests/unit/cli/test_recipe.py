"""`whet recipe` as a user types it: plain output in a pipe, exit codes, no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whet.cli.recipe import app

FIQA = """\
name: fiqa
output: runs/fiqa
model: {id: nvidia/Llama-3.1-Nemotron-Nano-8B-v1}
adapter: {rank: 8, alpha: 32, targets: [q_proj, k_proj, v_proj, o_proj]}
data: {train: [{source: explodinggradients/fiqa, config: main}], max_length: 2048}
optim: {lr: 2e-4, warmup: 0.1, schedule: linear}
train: {epochs: 3, keep: 3}
"""
OTHER = "data.train.0.source=someone/rows"


@pytest.fixture
def fiqa(tmp_path: Path) -> Path:
    path = tmp_path / "fiqa.yaml"
    path.write_text(FIQA, encoding="utf-8")
    return path


def show(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["show", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_show_prints_the_numbers_of_the_run(fiqa):
    text = show(str(fiqa))  # the number of rows of this dataset is known without fetching it
    for expected in (
        "16 = 4 micro-batch x 4 accumulation x 1 process",
        "1,032 (3 epochs of 344)",
        "warm-up steps      104",
        "6,815,744 (0.0848 % of the weights in training)",
        "27.26 MB (26.00 MiB), float32",
        "81.79 MB (78.00 MiB)",
    ):
        assert expected in text
    assert "\x1b" not in text and "unknown" not in text


def test_show_says_what_is_unknown_and_why(fiqa):
    text = show(str(fiqa), OTHER)
    assert "steps              unknown" in text
    assert "someone/rows: unknown until the rows are read: pass --rows" in text
    text = show(str(fiqa), OTHER, "model.id=someone/else", "train.max_steps=50")
    assert "trainable weights  unknown" in text and "shape of someone/else is unknown" in text
    assert "steps              50" in text and "warm-up steps      5" in text


def test_show_says_that_packs_are_not_counted_before_rows_are_tokens(fiqa):
    text = show(str(fiqa), "batch.unit=packs")
    assert "steps              unknown" in text and "run whet prepare" in text
    assert "packs per step     16 = 4 micro-batch x 4 accumulation" in text


def test_show_takes_overrides_and_a_world_size(fiqa):
    text = show(str(fiqa), "optim.lr=1e-5", "batch.global_size=32", "--world-size", "4", "--rows", "5500")
    assert "learning rate 1e-05" in text
    assert "32 = 4 micro-batch x 2 accumulation x 4 processes" in text
    assert "516 (3 epochs of 172)" in text


def test_json_holds_the_same_numbers(fiqa):
    shown = json.loads(show(str(fiqa), "--rows", "5500", "--json"))
    assert shown["plan"]["total_steps"] == shown["total_steps"] == 1032
    assert shown["warmup_steps"] == 104 and shown["accumulation"] == 4
    assert shown["weights"]["num_trainable"] == 6_815_744 and shown["unknown"] == []
    shown = json.loads(show(str(fiqa), OTHER, "--json"))
    assert shown["plan"] is None and shown["total_steps"] is None and shown["warmup_steps"] is None


@pytest.mark.slow
def test_check_prints_ok_or_every_problem_and_leaves_with_two(fiqa, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(FIQA + "bogus: 1\nseed: -1\n", encoding="utf-8")
    run = [sys.executable, "-c", "from whet.cli.main import main; main()", "recipe", "check"]
    done = subprocess.run([*run, str(fiqa)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"ok  {fiqa}\n")
    done = subprocess.run([*run, str(fiqa), str(bad)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == f"ok  {fiqa}\n"
    assert f"{bad}:8 bogus: unknown key" in done.stderr and f"{bad}:9 seed: must be" in done.stderr
    assert "error: 1 of 2 recipes cannot be run" in done.stderr
    done = subprocess.run([*run, "--json", str(fiqa), str(bad)], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert done.returncode == 2 and found[str(fiqa)] == []
    assert any(line.strip().startswith(f"{bad}:8 bogus") for line in found[str(bad)])


def test_show_imports_neither_torch_nor_transformers(fiqa):
    code = (
        "import sys; from typer.testing import CliRunner; from whet.cli.recipe import app;"
        "result = CliRunner().invoke(app, ['show', sys.argv[1], '--rows', '9'], catch_exceptions=False);"
        "print(result.exit_code, [m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(fiqa)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 []"


def test_reference_prints_or_writes_page_and_schema(tmp_path):
    page = CliRunner().invoke(app, ["reference"], catch_exceptions=False).output
    schema = CliRunner().invoke(app, ["reference", "--schema"], catch_exceptions=False).output
    assert page.startswith("# Recipe reference\n") and json.loads(schema)["title"] == "whet recipe"
    CliRunner().invoke(app, ["reference", "--output", str(tmp_path / "new")], catch_exceptions=False)
    assert (tmp_path / "new" / "recipe.md").read_text(encoding="utf-8") == page
    assert (tmp_path / "new" / "recipe.schema.json").read_text(encoding="utf-8") == schema
