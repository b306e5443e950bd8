"""What an evaluation after training will lack is told before the training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from whet.cli import fiqa_project, train
from whet.errors import RecipeError

pytestmark = pytest.mark.slow

RECIPE = """\
name: small
output: {folder}/run
data: {{train: [{{source: {folder}/train.jsonl}}]}}
evaluate:
  - {{name: held, source: {{source: {folder}/test.jsonl, split: all}}, metrics: [bleu]}}
"""


class TrainingBegan(Exception):  # noqa: N818 - no error, a point that is reached
    """Instead of a run."""


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Path:
    def begin(*_, **__):
        raise TrainingBegan

    monkeypatch.setattr("whet.train.run.run_recipe", begin)
    monkeypatch.setattr(fiqa_project, "_before_training", begin)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path))
    return tmp_path / "recipe.yaml"


@pytest.mark.parametrize("command", ["train", "fiqa"])
@pytest.mark.parametrize("is_missing", [True, False])
@pytest.mark.parametrize("evaluate", [True, False])
def test_a_metric_s_missing_library_is_told_before_training(recipe, monkeypatch, command, is_missing, evaluate):
    if is_missing:
        monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    expected = RecipeError if is_missing and evaluate else TrainingBegan
    with pytest.raises(expected):
        if command == "train":
            train.train(recipe, [], fresh=False, resume=None, evaluate=evaluate)
        else:
            fiqa_project.run_project(recipe, [f"output={recipe.parent}/run"], fresh=False, evaluate=evaluate)
