"""`whet explain` tells every value with its origin, and the plan of a run that has begun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from whet.cli.explain import explain
from whet.errors import RecipeError

RECIPE = """\
name: a
output: {folder}/run
data: {{train: [{{source: {folder}/a.jsonl}}]}}
optim: {{lr: 1e-3}}
train: {{device: cpu, threads: 1}}
"""
app = typer.Typer()
app.command()(explain)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 20)
    path = tmp_path / "a.yaml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def found(*arguments: object) -> dict[str, dict]:
    return {each["key"]: each for each in json.loads(call(*arguments, "--json"))}


def test_values_and_what_follows_from_them(recipe):
    told = found(recipe, "train.epochs=3")
    assert told["optim.lr"]["origin"] == f"{recipe}:4"
    assert told["train.epochs"]["origin"] == "command line"
    assert told["plan.total_steps"]["value"] == 6 and told["plan.num_threads"]["value"] == 1
    assert told["plan.device"]["origin"] == "derived for this machine"


def test_a_key_alone_is_explained_in_lines(recipe):
    assert call(recipe, "optim.lr") == f"optim.lr = 0.001  ({recipe}:4)\n    Peak learning rate.\n"
    assert set(found(recipe, "optim", "--no-defaults")) == {"optim.lr"}


def test_an_unknown_key_is_answered_with_the_nearest(recipe):
    with pytest.raises(RecipeError, match=r"did you mean optim\.lr"):
        call(recipe, "optim.lrr")


def test_a_run_that_has_begun_shows_what_it_decided(recipe, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(recipe.read_text())
    (run / "run_plan.json").write_text('{"total_steps": 5, "micro_batch": 2, "num_lanes": 2}')
    for told in (found(recipe), found(run)):
        assert told["plan.num_lanes"]["value"] == 2 and "run_plan.json" in told["plan.num_lanes"]["origin"]
    # with changes it is another run
    assert found(recipe, "train.epochs=3")["plan.total_steps"]["value"] == 6
