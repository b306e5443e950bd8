from dataclasses import replace

from whet.recipe.schema import Adapter, Callback, Data, Model, Recipe, Source
from whet.recipe.tracked_as import TrackedAs
from whet.tracking import describe

RECIPE = Recipe(name="demo", output="runs/demo", data=Data(train=(Source(source="data/faq.jsonl"),)))


def test_tags_are_the_recipe_s_own_and_then_the_guide_s(tmp_path):
    adapter = Adapter(method="dora", rank=32, alpha=64, init="pissa", rslora=True)
    recipe = replace(
        RECIPE, adapter=adapter, model=Model(id="meta-llama/Llama-3.1-8B"), callbacks=(Callback(name="spectral"),),
        tracked_as=TrackedAs(tags=("metamath", "x" * 80), project="guide", name="first", online=True),
    )  # fmt: skip
    run = describe(recipe, tmp_path, 7)
    assert run.tags == (
        "metamath", "x" * 64, "method:dora", "rank:32", "alpha:64", "init:pissa", "dora", "rslora", "lr:2e-04",
        "optim:adamw", f"bs:{recipe.batch.global_size}", "trainer:spectral", "data:faq.jsonl", "model:Llama-3.1-8B",
    )  # fmt: skip
    assert (run.name, run.project, run.is_online, run.resume_step) == ("first", "guide", True, 7)
    assert describe(replace(RECIPE, adapter=Adapter(method="none")), tmp_path, 0).tags[0] == "method:full"


def test_without_words_about_it_a_run_has_its_own_name_and_stays_at_home(tmp_path):
    run = describe(RECIPE, tmp_path, 0)
    assert (run.name, run.project, run.is_online) == ("demo", "whet", False)
    assert run.config["data"]["train"][0]["source"] == "data/faq.jsonl" and run.config["seed"] == 42


def test_no_secret_reaches_a_tracker(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_CANARYCANARY")
    source = Source(source="https://user:CANARYCANARY@host/rows.jsonl")
    recipe = replace(
        RECIPE, name="hf_CANARYCANARY", data=Data(train=(source,)),
        tracked_as=TrackedAs(project="of hf_CANARYCANARY", tags=("hf_CANARYCANARY",)),
    )  # fmt: skip
    assert "CANARY" not in repr(describe(recipe, tmp_path, 0))
