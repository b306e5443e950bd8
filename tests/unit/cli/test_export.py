"""`merge_adapter.py` speaks the guide's words."""

import importlib.util
from pathlib import Path

import pytest

from whet.errors import RecipeError

SHIM = Path(__file__).parents[3] / "merge_adapter.py"
GUIDE = ["--adapter_path", "outputs/run", "--output_path", "models/merged"]


@pytest.fixture(scope="module")
def shim():
    spec = importlib.util.spec_from_file_location("merge_adapter", SHIM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_guide_s_command_is_a_merge(shim):
    assert shim.whet_arguments(["--base_model", "meta-llama/Llama-3.1-8B", *GUIDE]) == [
        "merge", "outputs/run", "--output=models/merged", "--base=meta-llama/Llama-3.1-8B",
    ]  # fmt: skip
    assert shim.whet_arguments(GUIDE) == ["merge", "outputs/run", "--output=models/merged"]


def test_the_base_may_stand_in_a_configuration(shim, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: a\noutput: b\nmodel: {id: me/mine}\ndata: {train: [{source: rows.jsonl}]}\n")
    assert shim.whet_arguments([*GUIDE, "--config", str(recipe)])[-1] == "--base=me/mine"


@pytest.mark.parametrize("wish", [["--push_to_hub"], ["--hub_model_id", "me/mine"]])
def test_publishing_is_answered_with_the_way_to_do_it(shim, wish):
    with pytest.raises(RecipeError, match=r"(?s)two steps.*whet push models/merged"):
        shim.whet_arguments([*GUIDE, *wish])
