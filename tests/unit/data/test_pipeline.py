import json

import pytest

from whet.data.pipeline import load_sets, prepare
from whet.errors import DataError
from whet.recipe.schema import Data, Evaluate, Recipe, Source


def _write(path, questions):
    path.write_text("\n".join(json.dumps({"question": q, "answer": f"{q}!"}) for q in questions))


@pytest.fixture
def folder(tmp_path):
    _write(tmp_path / "train.jsonl", [f"train {n}" for n in range(8)])
    _write(tmp_path / "more.jsonl", ["train 3", "more 1", "more 2 " + "long " * 200])
    _write(tmp_path / "test.jsonl", [f"test {n}" for n in range(4)])
    return tmp_path


def _recipe(**kwargs):
    data = {"train": (Source(source="train.jsonl"), Source(source="more.jsonl")), "max_length": 150}
    data |= kwargs.pop("data", {})
    evaluate = (Evaluate(name="held_out", source=Source(source="test.jsonl")),)
    return Recipe(name="r", output="out", data=Data(**data), **{"evaluate": evaluate, **kwargs})


def test_a_recipe_becomes_tokens_and_held_out_rows(folder, chatml):
    prepared = prepare(_recipe(), chatml, end_ids=[2], base_folder=folder)
    assert (prepared.train.num_rows, len(prepared.train.samples), len(prepared.train.dropped)) == (11, 10, 1)
    assert prepared.validation is None
    assert [example.golds for example in prepared.evaluate["held_out"]] == [(f"test {n}!",) for n in range(4)]
    assert prepared.notes[0] == "train.jsonl [train]: 8 rows, read as question_answer"
    assert "1 too long and left out, e.g. more.jsonl:3" in prepared.notes[-1]


def test_ids_are_unique_over_all_sources(folder, chatml):
    ids = [sample.id for sample in prepare(_recipe(), chatml, end_ids=[2], base_folder=folder).train.samples]
    assert len(set(ids)) == len(ids) == 10


def test_validation_rows_are_tokenized_and_must_be_disjoint_too(folder, chatml):
    held = _recipe(data={"train": (Source(source="train.jsonl", split="train[:6]"),),
                         "validation": (Source(source="train.jsonl", split="train[6:]"),)})  # fmt: skip
    prepared = prepare(held, chatml, end_ids=[2], base_folder=folder)
    assert (len(prepared.train.samples), len(prepared.validation.samples)) == (6, 2)
    shared = _recipe(data={"validation": (Source(source="train.jsonl", split="train[6:]"),)})
    with pytest.raises(DataError, match="validation: 2 of 2 rows are also training rows"):
        prepare(shared, chatml, end_ids=[2], base_folder=folder)


def test_evaluating_on_training_rows_is_refused_whatever_the_instruction(folder):
    source = Source(source="train.jsonl", split="train[:3]", instruction="Answer in one word.")
    with pytest.raises(DataError, match="held_out: 3 of 3 rows are also training rows"):
        load_sets(_recipe(evaluate=(Evaluate(name="held_out", source=source),)), base_folder=folder)


def test_preparing_twice_gives_the_same_fingerprint(folder, chatml):
    one, two = (prepare(_recipe(), chatml, end_ids=[2], base_folder=folder) for _ in range(2))
    assert one.train.fingerprint == two.train.fingerprint
