"""Which run the FiQA project's evaluation script evaluates, whatever folder it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from whet.cli.fiqa_evaluation import find_run
from whet.errors import StorageError
from whet.recipe import dump_recipe, load_recipe

RECIPE = Path(__file__).parents[3] / "recipes" / "nemotron-nano-8b" / "fiqa_lora.yaml"


def write_adapter(folder: Path, content: str = "weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text(content)
    (folder / "adapter_config.json").write_text("{}")
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder as train_fiqa_peft.py leaves it."""
    run = write_adapter(tmp_path / "checkpoints")
    (run / "recipe.yaml").write_text(dump_recipe(load_recipe(RECIPE, [f"output={run}", "seed=7"])))
    write_adapter(run / "final_model")
    write_adapter(run / "checkpoint-100", "earlier weights")
    return run


def find(folder: Path | str, tmp_path: Path, base_model: str | None = None, overrides: tuple[str, ...] = ()):
    return find_run(str(folder), tmp_path / "own", recipe=RECIPE, base_model=base_model, overrides=overrides)


@pytest.mark.parametrize("name", [".", "final_model"])
def test_a_run_and_its_final_model_are_evaluated_where_they_lie(run, tmp_path, name):
    found, recipe = find(run / name, tmp_path)
    assert found == run and recipe.seed == 7
    # the base that the recipe names anyway changes nothing
    assert find(run / name, tmp_path, recipe.model.id)[0] == run
    assert not (tmp_path / "own").exists()


def test_a_checkpoint_is_evaluated_by_itself_with_its_run_s_recipe(run, tmp_path):
    found, recipe = find(run / "checkpoint-100", tmp_path)
    assert found == tmp_path / "own" and recipe.seed == 7
    assert (found / "adapter_model.safetensors").read_text() == "earlier weights"
    assert load_recipe(found / "recipe.yaml") == recipe


def test_changed_settings_leave_the_run_as_it_is(run, tmp_path):
    found, recipe = find(run, tmp_path, "another/base", ("evaluate.0.source.source=test.jsonl",))
    assert found == tmp_path / "own"
    assert (recipe.model.id, recipe.evaluate[0].source.source) == ("another/base", "test.jsonl")
    assert load_recipe(run / "recipe.yaml").model.id != "another/base"


def test_an_adapter_of_no_run_is_asked_as_the_recipe_says(tmp_path):
    found, recipe = find(write_adapter(tmp_path / "adapter"), tmp_path)
    assert (found / "adapter_config.json").is_file()
    assert recipe.evaluate == load_recipe(RECIPE).evaluate


def test_the_base_alone_needs_no_adapter(tmp_path):
    found, recipe = find("none", tmp_path, "some/base")
    assert [path.name for path in found.iterdir()] == ["recipe.yaml"]
    assert recipe.model.id == "some/base"


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(StorageError, match="has no final weights yet"):
        find(tmp_path / "nowhere", tmp_path)
