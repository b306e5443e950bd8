"""Contract of the table of formats: each reads its own sample, is found from it, and misses its keys by name."""

from typing import get_args

import pytest

from whet.data.datasets import DATASETS, SPLIT_RULES, TASKS
from whet.data.files import RawRow
from whet.data.formats import FORMATS, check_fields, detect_format
from whet.data.rows import BadRow, RowReader
from whet.errors import DataError, RecipeError
from whet.recipe.schema import RowFormat


def _rows(*values):
    return [RawRow(origin=f"f:{number}", value=value) for number, value in enumerate(values, 1)]


def _read(value, name, **kwargs):
    return RowReader(format_name=name, **kwargs).read(RawRow(origin="f:1", value=value))


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_reads_its_own_sample_and_is_found_from_it(name):
    sample = FORMATS[name].sample
    example = _read(sample, name)
    assert not isinstance(example, BadRow), example
    assert example.messages[-1].role == "assistant" and any(turn.is_taught for turn in example.messages)
    assert example.task in TASKS and bool(example.golds) == (name != "text")
    assert detect_format(_rows(sample), "f") == name
    assert detect_format(_rows(*[sample] * 30), "f") == name


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, shape in FORMATS.items() for key in shape.keys])
def test_a_row_without_a_key_is_refused_with_the_keys_name(name, key):
    row = {other: value for other, value in FORMATS[name].sample.items() if other != key}
    bad = _read(row, name)
    assert isinstance(bad, BadRow) and (bad.origin, bad.kind) == ("f:1", "bad")
    assert f"missing key (field {key!r}, found keys {', '.join(map(repr, row)) or 'none'}, expected " in bad.reason


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, shape in FORMATS.items() for key in shape.keys])
def test_a_renamed_key_is_found_through_fields_and_never_under_its_usual_name(name, key):
    sample = FORMATS[name].sample
    rest = {other: value for other, value in sample.items() if other != key}
    plain, mapped = _read(sample, name), _read({**rest, "own": sample[key]}, name, fields={key: "own"})
    assert (mapped.id, mapped.messages, mapped.golds) == (plain.id, plain.messages, plain.golds)
    bad = _read(sample, name, fields={key: "own"})
    assert "missing key (field 'own', found keys" in bad.reason and f"maps to {key!r}" in bad.reason


def test_recipes_can_name_every_format_and_no_other():
    assert set(get_args(RowFormat)) == {"auto", *FORMATS}


def test_every_dataset_has_a_format_of_its_name_and_every_split_rule_a_dataset():
    assert DATASETS.keys() <= FORMATS.keys() and SPLIT_RULES.keys() <= DATASETS.keys()
    assert all(dataset.FORMAT is FORMATS[name] for name, dataset in DATASETS.items())
    assert len({dataset.HUB_ID for dataset in DATASETS.values()}) == len(DATASETS)


def test_faults_call_a_mapped_key_as_the_row_does():
    bad = _read({"ask": "2+2?", "reply": None}, "question_answer", fields={"question": "ask", "answer": "reply"})
    assert bad.reason == "null where text is needed (field 'reply', found null, expected text)"
    bad = _read({"chat": [{"role": "bot"}]}, "messages", fields={"messages": "chat"})
    assert "field 'chat[0].role'" in bad.reason


def test_an_optional_key_that_is_mapped_is_not_found_under_its_usual_name():
    row = {"instruction": "Add.", "input": "not meant", "output": "4"}
    example = _read(row, "alpaca", fields={"input": "context"})
    assert example.messages[0].content == "Add."
    assert _read({**row, "context": "2 and 2"}, "alpaca", fields={"input": "context"}).messages[0].content == (
        "Add.\n\n2 and 2"
    )


def test_fields_take_part_in_detection():
    rows = _rows({"ask": "2+2?", "reply": "4"})
    assert detect_format(rows, "f", fields={"question": "ask", "answer": "reply"}) == "question_answer"
    assert detect_format(rows, "f", fields={"prompt": "ask", "completion": "reply"}) == "prompt_completion"
    with pytest.raises(RecipeError, match="maps 'questoin', which any format does not read"):
        detect_format(rows, "f", fields={"questoin": "ask"})


def test_fields_that_cannot_be_right_are_refused_before_any_row_is_read():
    rows = _rows({"ask": "2+2?", "reply": "4"}, {"ask": "3+3?", "reply": "6"})
    check_fields("question_answer", {"question": "ask", "answer": "reply"}, rows, "f")
    with pytest.raises(RecipeError, match=r"'input', which question_answer does not read.*\n.*answer, question"):
        check_fields("question_answer", {"input": "ask"}, rows, "f")
    with pytest.raises(DataError, match="f: none of the first 2 rows has the key 'text' that `fields` gives for 'qu"):
        check_fields("question_answer", {"question": "text"}, rows, "f")


def test_detection_is_not_misled_by_a_bad_first_row():
    rows = _rows({"prompt": "a", "completion": "b"}, *[{"question": "a", "answer": "b"}] * 3)
    assert detect_format(rows, "f") == "question_answer"


def test_the_more_specific_format_needs_more_than_half_of_the_rows():
    words, number = {"question": "q", "answer": "words"}, {"question": "q", "answer": "1+1\n#### 2"}
    assert detect_format(_rows(number, words), "f") == "question_answer"
    assert detect_format(_rows(words, number, number), "f") == "gsm8k"
    bad = _read(words, "gsm8k")
    assert "no final answer (field 'answer', found the last line 'words', expected a last line `#### 72`" in bad.reason


def test_unknown_shapes_are_refused_with_the_keys_found_and_a_row_of_each_shape():
    with pytest.raises(DataError) as caught:
        detect_format(_rows({"body": "a", "label": 1}), "f")
    text = str(caught.value)
    assert "'body', 'label'" in text
    assert all(f"    {name}: {{" in text for name in FORMATS)
