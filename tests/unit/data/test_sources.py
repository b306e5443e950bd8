import json
from pathlib import Path

import pytest

from whet.data.sources import load_examples, parse_split
from whet.errors import DataError, RecipeError
from whet.recipe.schema import Source


def _write(folder: Path, count=10, name="rows.jsonl"):
    rows = [{"question": f"{n}+1?", "answer": f"steps\n#### {n + 1}"} for n in range(count)]
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n")


def _load(folder, source="rows.jsonl", seed=1, **kwargs):
    return load_examples(Source(source=source, **kwargs), seed=seed, base_folder=folder)


def test_a_file_is_read_with_its_account(tmp_path):
    _write(tmp_path)
    loaded = _load(tmp_path)
    assert (loaded.num_rows, loaded.found_format, loaded.num_duplicates) == (10, "gsm8k", 0)
    assert loaded.examples[3].origin == "rows.jsonl:4"
    assert loaded.examples[3].golds == ("4",)
    assert loaded.describe("rows.jsonl") == "rows.jsonl: 10 rows, read as gsm8k"


def test_slices_cover_a_file_once_and_keep_the_ids(tmp_path):
    _write(tmp_path)
    whole = _load(tmp_path).examples
    first, second = _load(tmp_path, split="train[:6]").examples, _load(tmp_path, split="all[6:]").examples
    assert (*first, *second) == whole
    assert _load(tmp_path, split="train[2:9]", rows=3).examples == whole[2:5]


def test_bad_rows_outside_the_slice_do_not_matter_and_inside_they_stop(tmp_path):
    _write(tmp_path)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"question": "torn\n')
    assert _load(tmp_path, split="train[:10]").num_rows == 10
    with pytest.raises(DataError, match=r"rows.jsonl:11: torn or invalid JSON"):
        _load(tmp_path)


def test_duplicates_are_kept_and_said(tmp_path):
    _write(tmp_path, 2)
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text() * 3)
    loaded = _load(tmp_path)
    assert (len(loaded.examples), loaded.num_duplicates) == (6, 4)
    assert "4 repeat an earlier row" in loaded.describe("rows")
    assert len({example.id for example in loaded.examples}) == 6


def test_the_fingerprint_changes_with_content_and_order_only(tmp_path):
    _write(tmp_path)
    before = _load(tmp_path).fingerprint
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace('"question"', '\n  "question"'.replace("\n", "")))
    assert _load(tmp_path).fingerprint == before
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[::-1]))
    assert _load(tmp_path).fingerprint != before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train", ("train", 0, None)),
        ("train[:5]", ("train", 0, 5)),
        ("test[5:]", ("test", 5, None)),
        ("a-b.c[1:2]", ("a-b.c", 1, 2)),
    ],
)
def test_splits_are_understood(text, expected):
    assert parse_split(text, where="f") == expected


@pytest.mark.parametrize(
    "text", ["train[", "train[5]", "train[:10%]", "train[-5:]", "train[5:5]", "train[6:5]", "", "a b"]
)
def test_other_splits_are_refused(text):
    with pytest.raises(RecipeError):
        parse_split(text, where="f")


def test_a_slice_beyond_the_end_is_an_error(tmp_path):
    _write(tmp_path)
    with pytest.raises(DataError, match="takes no rows: there are 10"):
        _load(tmp_path, split="train[10:20]")


def test_a_file_has_one_split(tmp_path):
    _write(tmp_path, name="test.jsonl")
    assert _load(tmp_path, "test.jsonl", split="test[:3]").num_rows == 3
    with pytest.raises(RecipeError, match="a file is one split, it has no 'validation'"):
        _load(tmp_path, "test.jsonl", split="validation")


def test_a_stated_format_is_not_guessed_again(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b", "question": "c", "answer": "d"}\n')
    assert _load(tmp_path).examples[0].messages[0].content == "a"
    assert _load(tmp_path, format="question_answer").examples[0].messages[0].content == "c"


def test_a_missing_file_is_not_taken_for_a_hub_id(tmp_path):
    _write(tmp_path)
    with pytest.raises(DataError, match=r"did you mean rows.jsonl\?"):
        _load(tmp_path, "row.jsonl")


def test_generated_problems_ask_for_the_answer_format_on_both_sides(tmp_path):
    pytest.importorskip("reasoning_gym", reason="needs whet[demo]")
    name = "reasoning-gym:word_sequence_reversal"
    train = _load(tmp_path, name, rows=30, options={"max_words": 4})
    held_out = _load(tmp_path, name, rows=20, split="test", options={"max_words": 4})
    for example in (*train.examples, *held_out.examples):
        assert example.messages[0].content.endswith("in the form: Answer: ...")
        assert example.messages[-1].content == f"Answer: {example.golds[0]}"
    assert train.found_format == "generated"
    assert not {e.parameters for e in train.examples} & {e.parameters for e in held_out.examples}


def test_generated_validation_rows_come_from_another_slice_of_train(tmp_path):
    pytest.importorskip("reasoning_gym", reason="needs whet[demo]")
    train = _load(tmp_path, "reasoning-gym:chain_sum", rows=40)
    validation = _load(tmp_path, "reasoning-gym:chain_sum", split="train[40:50]")
    assert len(validation.examples) == 10
    assert not {e.parameters for e in train.examples} & {e.parameters for e in validation.examples}


def test_the_seed_of_a_generated_source_can_be_fixed(tmp_path):
    pytest.importorskip("reasoning_gym", reason="needs whet[demo]")
    fixed = [_load(tmp_path, "reasoning-gym:chain_sum", seed=seed, rows=5, options={"seed": 9}) for seed in (1, 2)]
    free = [_load(tmp_path, "reasoning-gym:chain_sum", seed=seed, rows=5) for seed in (1, 2)]
    assert fixed[0].examples == fixed[1].examples
    assert free[0].examples != free[1].examples


@pytest.mark.parametrize(
    ("split", "message"), [("validation", "no split 'validation'"), ("train", "how many problems")]
)
def test_generated_sources_need_a_side_and_a_number(tmp_path, split, message):
    with pytest.raises(RecipeError, match=message):
        _load(tmp_path, "reasoning-gym:chain_sum", split=split)
