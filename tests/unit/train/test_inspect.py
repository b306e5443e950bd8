"""What is inspected is what a run of the recipe trains on."""

from pathlib import Path

import pytest
from inspections import write_recipe

from whet.data.pipeline import prepare
from whet.data.sampler import order_of
from whet.errors import RecipeError
from whet.models.tokenizer import load_tokenizer
from whet.recipe import load_recipe
from whet.recipe.resolve import resolve
from whet.train.inspect import build_inspection


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    return write_recipe(tmp_path)


@pytest.mark.parametrize("batch", ["batch.unit=samples", "batch.unit=packs"])
def test_passes_are_those_of_the_first_step_of_training(recipe, batch):
    settings = load_recipe(recipe, [batch])
    found = build_inspection(settings, tell=lambda _: None)
    loaded = load_tokenizer(settings.model)
    data = prepare(settings, loaded.tokenizer, end_ids=loaded.stop_ids, base_folder=Path.cwd())
    order = order_of(settings, data.train)
    step = order.step(resolve(settings, world_size=1, num_samples=order.num_units), 0)
    expected = [[data.train.samples[i].id for i in each] for each in step.passes if len(each)]
    assert [[document.id for document in each.documents] for each in found.passes] == expected
    assert found.num_passes == len(expected)


def test_the_view_of_a_sample_is_the_sample(recipe):
    settings = load_recipe(recipe)
    found = build_inspection(settings, num_rows=100, tell=lambda _: None)
    loaded = load_tokenizer(settings.model)
    samples = prepare(settings, loaded.tokenizer, end_ids=loaded.stop_ids, base_folder=Path.cwd()).train.samples
    assert len(found.rows) == len(samples) == 8
    for view, sample in zip(found.rows, samples, strict=True):
        assert view.id == sample.id
        assert [token.id for token in view.tokens] == sample.ids.tolist()
        assert [token.is_taught for token in view.tokens] == sample.taught.tolist()


def test_a_set_that_is_not_there_is_refused(recipe):
    with pytest.raises(RecipeError, match="there is no set 'x'"):
        build_inspection(load_recipe(recipe), shown_set="x", tell=lambda _: None)


def test_bad_rows_that_the_recipe_drops_stop_nothing(recipe, tmp_path):
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"question": "torn\n')
    found = build_inspection(load_recipe(recipe, ["data.bad_rows=drop"]), tell=lambda _: None)
    assert found.sets[0].ledger.count("bad") == 1
    assert found.overlaps["held"].num_train_rows == 9


def test_a_held_out_question_longer_than_a_pack_is_no_error(recipe, tmp_path):
    (tmp_path / "held.jsonl").write_text('{"question": "%s", "answer": "4"}\n' % ("word " * 400), encoding="utf-8")
    found = build_inspection(load_recipe(recipe), tell=lambda _: None)
    assert found.sets[2].longest > 128
    assert [summary.packing is None for summary in found.sets] == [False, False, True, True]
