"""What `--checkpoint` and `--against` name, and what is said where there is nothing of that name."""

import pytest
import tiny_runs
import torch

from whet.checkpoint.manifest import write_manifest
from whet.errors import RecipeError, StorageError
from whet.inference.chat_models import display_name, find_checkpoint, find_recipe, open_models, shared_stop_strings
from whet.inference.respond import Request
from whet.recipe import load_recipe
from whet.recipe.schema import Adapter


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = tiny_runs.write_base(folder / "base")
    run = tiny_runs.write_adapter_run(folder / "run", base, Adapter(rank=4, alpha=8.0), size=0.3).folder
    for name, step in (("checkpoint-8", 8), ("checkpoint-12", 12), ("checkpoint-best", 8)):
        tiny_runs.write_adapter_run(run / name, base, Adapter(rank=4, alpha=8.0), size=0.1 * step)
        write_manifest(run / name, step=step)
    return run


@pytest.mark.parametrize(
    ("which", "name"),
    [("best", "checkpoint-best"), ("last", "checkpoint-12"), ("8", "checkpoint-8"), ("12", "checkpoint-12")],
)
def test_a_checkpoint_is_found_by_its_name_or_step(run, which, name):
    assert find_checkpoint(run, which) == run / name


def test_a_checkpoint_that_is_not_there_is_answered_with_those_that_are(run, tmp_path):
    with pytest.raises(RecipeError, match=r"has no checkpoint 9\n  mend: choose among best, last, 12, 8"):
        find_checkpoint(run, "9")
    with pytest.raises(RecipeError, match="name best, last or a step"):
        find_checkpoint(run, "newest")
    with pytest.raises(RecipeError, match="leave --checkpoint out"):
        find_checkpoint(tmp_path, "last")


def test_a_damaged_checkpoint_is_refused(run, tmp_path):
    base = run.parent / "base"
    damaged = tiny_runs.write_adapter_run(tmp_path / "checkpoint-3", base, Adapter(rank=4, alpha=8.0)).folder
    write_manifest(damaged, step=3)
    weights = damaged / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(StorageError, match="adapter_model"):
        find_checkpoint(tmp_path, "3")


def test_base_and_tuned_stand_side_by_side_under_their_names(run):
    recipe = find_recipe(str(run))
    models = open_models(Request(name=str(run / "checkpoint-8"), recipe=recipe), "base")
    assert list(models) == ["base", "tiny checkpoint-8"]
    weights = [model.loaded.model.model.layers[0].self_attn.q_proj.weight for model in models.values()]
    assert not torch.equal(*weights)
    base = tiny_runs.read_base(run.parent / "base").model.layers[0].self_attn.q_proj.weight
    assert torch.equal(weights[0], base)


def test_another_model_can_stand_in_the_base_s_place(run):
    models = open_models(Request(name=str(run), recipe=find_recipe(str(run))), str(run / "checkpoint-8"))
    assert list(models) == [str(run / "checkpoint-8"), "tiny"]


def test_a_model_without_a_base_is_told_so(run):
    with pytest.raises(RecipeError, match="is no run or adapter folder"):
        open_models(Request(name=str(run.parent / "base")), "base")


def test_a_folder_without_a_recipe_goes_by_its_own_name(run):
    assert find_recipe(str(run.parent / "base")) is None
    assert display_name(Request(name=str(run.parent / "base"))) == "base"
    assert display_name(Request(name="owner/model")) == "owner/model"


def test_stop_strings_are_those_that_all_sets_of_the_run_have(run, tmp_path):
    text = (run / "recipe.yaml").read_text(encoding="utf-8")
    path = tmp_path / "recipe.yaml"

    def stops(*of_sets):
        sets = [
            f"{{name: s{n}, source: {{source: rows{n}.jsonl}}, stop: {list(stop)}}}" for n, stop in enumerate(of_sets)
        ]
        path.write_text(f"{text}\nevaluate: [{', '.join(sets)}]\n", encoding="utf-8")
        return shared_stop_strings(load_recipe(path))

    assert stops(["END"], ["END"]) == ("END",)
    assert stops(["END"], []) == ()
    assert stops() == shared_stop_strings(None) == ()
