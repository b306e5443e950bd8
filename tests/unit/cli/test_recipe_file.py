"""A recipe file of any tool is loaded, and what its tool meant is told aloud."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whet.cli.output import say_on_main
from whet.cli.recipe import app
from whet.cli.recipe_file import load_any_recipe
from whet.errors import RecipeError
from whet.recipe import load_recipe

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "configs" / "Llama-3.1" / "llama3.1_8b_metamath.yaml"
OWN = ROOT / "recipes" / "demo.yaml"


def test_a_foreign_file_is_told_and_takes_overrides():
    said: list[str] = []
    recipe = load_any_recipe(GUIDE, ["optim.lr=1e-5", "data.train.0.source=rows.jsonl"], said.append)
    assert recipe.optim.lr == 1e-5 and recipe.data.train[0].source == "rows.jsonl"
    text = "\n".join(said)
    for part in (
        "read as lora-ns",
        "could not be mapped:",
        "mapped:",
        "no effect here:",
        "peft.init_lora_weights: pissa",
    ):
        assert part in text


def test_an_own_recipe_is_loaded_in_silence():
    said: list[str] = []
    assert load_any_recipe(OWN, (), said.append) == load_recipe(OWN)
    assert said == []


@pytest.mark.parametrize("content", [None, "", "name: [", "hello: world\n"])
def test_other_files_are_refused_as_recipes_are(tmp_path, content):
    path = tmp_path / "r.yaml"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        load_any_recipe(path, (), print)


def test_only_rank_0_tells(monkeypatch, capsys):
    for variables, speaks in (
        ({}, True),
        ({"RANK": "0"}, True),
        ({"RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ):
        monkeypatch.delenv("RANK", raising=False)
        monkeypatch.delenv("SLURM_PROCID", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        say_on_main("hello")
        assert ("hello" in capsys.readouterr().out) == speaks


def run_import(*arguments: str):
    return CliRunner().invoke(app, ["import", *arguments], catch_exceptions=False)


def test_import_prints_the_recipe_and_its_account_apart(tmp_path):
    result = run_import(str(GUIDE))
    assert result.exit_code == 0
    assert result.stdout.startswith("# Imported from ") and "could not be mapped" in result.stderr
    (tmp_path / "r.yaml").write_text(result.stdout, encoding="utf-8")
    assert load_recipe(tmp_path / "r.yaml").batch.global_size == 128


def test_import_writes_a_file_for_the_processes_it_is_told_of(tmp_path):
    target, accelerate = tmp_path / "new" / "r.yaml", tmp_path / "accelerate.yaml"
    assert run_import(str(GUIDE), "--output", str(target), "--world-size", "2").exit_code == 0
    assert load_recipe(target).batch.global_size == 32
    accelerate.write_text("num_processes: 4\n", encoding="utf-8")
    run_import(str(GUIDE), "--output", str(target), "--accelerate-config", str(accelerate))
    assert load_recipe(target).batch.global_size == 64


def test_an_unknown_file_is_a_usage_error(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("hello: world\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="no YAML of lora-ns"):
        run_import(str(path))


def test_import_needs_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from whet.cli.recipe import app;"
        "CliRunner().invoke(app, ['import', sys.argv[1]], catch_exceptions=False);"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(GUIDE)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
