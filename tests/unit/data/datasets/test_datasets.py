"""The five datasets: what is asked, what is taught, what counts as right, and which rows a split has."""

import json

import numpy as np
import pytest

from whet.data.datasets import DATASETS, dolly, fiqa, gsm8k, judge, known_rows, metamathqa, squad
from whet.data.reading import LeftOutError, RowError
from whet.data.sources import BadRow, open_source
from whet.recipe.schema import Source

CONTEXT_ROW = {"instruction": " Who wrote Emma? ", "context": "Emma is by Jane Austen.\n", "response": "Austen"}


def _texts(reading):
    return [message.content for message in reading.messages]


def _open(folder, name, **kwargs):
    rows = list(open_source(Source(source=name, **kwargs), seed=1, base_folder=folder).read())
    return [row for row in rows if not isinstance(row, BadRow)], [row for row in rows if isinstance(row, BadRow)]


def test_gsm8k_keeps_the_calculator_marks_and_is_judged_by_its_last_line():
    reading = gsm8k.read({"question": "q", "answer": "48/2 = <<48/2=24>>24\n#### 1,024"})
    assert _texts(reading) == ["q", "48/2 = <<48/2=24>>24\n#### 1,024"]
    assert (reading.task, reading.golds) == ("math_answer", ("1024",))


@pytest.mark.parametrize(
    ("response", "golds"),
    [
        ("24*2 = 48\n#### 48\nThe answer is: 48", ("48",)),
        ("The answer is: 5? No.\nThe answer is: $1,200.50", ("1200.5",)),
        ("The answer is: \\$15", ("15",)),
        ("The answer is: $-7$", ("-7",)),
        ("The answer is: 3/4", ("3/4",)),
        ("The answer is: 15\\%", ("15",)),
        ("The answer is: \\frac{3}{4}", ()),
        ("The answer is: (3, 4)", ()),
        ("The answer is: x = 5", ()),
        ("The answer is: 2\\sqrt{3}", ()),
        ("So it is 48.", ()),
    ],
)
def test_metamath_is_scored_where_its_answer_is_a_number_and_nothing_else(response, golds):
    reading = metamathqa.read({"query": "q", "response": response, "type": "GSM_Rephrased"})
    assert _texts(reading) == ["q", response]
    assert (reading.task, reading.golds) == ("math_answer", golds)


def test_fiqa_teaches_the_first_ground_truth_whole_and_keeps_all():
    reading = fiqa.read({"question": "What is a bond?", "ground_truths": ["A loan.\n\nAnswer: a debt", "Debt"]})
    assert _texts(reading) == ["What is a bond?", "A loan.\n\nAnswer: a debt"]
    assert reading.golds == ("A loan.\n\nAnswer: a debt", "Debt")


def test_dolly_joins_context_and_instruction_by_a_coin_that_the_rows_content_throws():
    first, again = dolly.read(CONTEXT_ROW), dolly.read({**CONTEXT_ROW, "category": "closed_qa"})
    assert first == again._replace(category="") and _texts(first)[1] == "Austen"
    heads = [_texts(dolly.read({**CONTEXT_ROW, "instruction": f"Question {n}?"}))[0] for n in range(400)]
    parts = [("Emma is by Jane Austen.", f"Question {n}?") for n in range(400)]
    assert all(text in (f"{a}\n\n{b}", f"{b}\n\n{a}") for text, (a, b) in zip(heads, parts, strict=True))
    # a fair coin leaves this range once in 10^6
    assert 150 < sum(text.startswith("Emma") for text in heads) < 250


@pytest.mark.parametrize(
    "row", [{**CONTEXT_ROW, "context": " \n"}, {"instruction": " Who wrote Emma? ", "response": "A"}]
)
def test_dolly_without_context_is_the_instruction_as_it_stands(row):
    assert _texts(dolly.read(row))[0] == " Who wrote Emma? "


def test_squad_has_nemos_prompt_and_keeps_every_gold():
    flat = {"context": "Emma is by Jane Austen.", "question": "Who?", "answers": {"text": ["Jane Austen", "Austen"]}}
    nested = {
        **flat,
        "answers": [{"text": "Jane Austen", "answer_start": 11}, {"text": "Austen"}],
        "is_impossible": False,
    }
    for row in (flat, nested):
        reading = squad.read(row)
        assert _texts(reading) == ["Context: Emma is by Jane Austen. Question: Who? Answer:", "Jane Austen"]
        assert reading.golds == ("Jane Austen", "Austen")


@pytest.mark.parametrize(
    "change", [{"is_impossible": True, "answers": []}, {"answers": {"text": [], "answer_start": []}}, {"answers": []}]
)
def test_squad_questions_without_an_answer_are_left_out_by_rule(change):
    with pytest.raises(LeftOutError, match="question without an answer"):
        squad.read({"context": "c", "question": "q", **change})
    with pytest.raises(RowError) as caught:
        squad.read({"context": "c", "question": "q", **change, "is_impossible": False})
    assert not isinstance(caught.value, LeftOutError)


def _library_cut(num_rows, held_out):
    datasets = pytest.importorskip("datasets", reason="needs whet[data]")
    return datasets.Dataset.from_dict({"row": range(num_rows)}).train_test_split(test_size=held_out, seed=1234)


@pytest.mark.slow
@pytest.mark.parametrize("num_rows", [15_011, 3_673, 100, 35, 7])
def test_dolly_is_cut_like_the_datasets_library_cuts_it_twice(num_rows):
    # 0.15 + 0.05 and 0.05 / 0.20 as NeMo writes them
    test_share = 1 - 0.80 - 0.15
    first = _library_cut(num_rows, 0.15 + test_share)
    second = first["test"].train_test_split(test_size=test_share / (0.15 + test_share), seed=1234)
    parts = dolly.cut(num_rows)
    expected = {"train": first["train"], "validation": second["train"], "test": second["test"]}
    assert {name: part.tolist() for name, part in parts.items()} == {
        name: sorted(part["row"]) for name, part in expected.items()
    }


def test_dollys_cut_is_that_of_a_fifth_and_a_quarter_and_has_nemos_sizes():
    first = _library_cut(15_011, 0.20)
    second = first["test"].train_test_split(test_size=0.25, seed=1234)
    parts = dolly.cut(15_011)
    assert [len(part) for part in parts.values()] == [12_008, 2_252, 751]
    assert parts["test"].tolist() == sorted(second["test"]["row"])


@pytest.mark.slow
@pytest.mark.parametrize("num_rows", [87_599, 1_000, 21])
def test_squad_is_cut_like_the_datasets_library_cuts_it(num_rows):
    expected = _library_cut(num_rows, 0.05)
    parts = squad.cut(num_rows)
    assert parts["train"].tolist() == sorted(expected["train"]["row"])
    assert parts["validation"].tolist() == sorted(expected["test"]["row"])
    if num_rows == 87_599:
        assert [len(part) for part in parts.values()] == [83_219, 4_380]


def test_the_parts_of_a_cut_hold_each_row_once():
    for cut in (dolly.cut, squad.cut):
        for num_rows in (20, 21, 99, 1_000):
            parts = cut(num_rows).values()
            assert np.sort(np.concatenate(list(parts))).tolist() == list(range(num_rows))
            assert all((np.diff(part) > 0).all() for part in parts)


@pytest.mark.parametrize(
    ("hub_id", "sizes"),
    [
        ("openai/gsm8k", {"train": 7_473, "test": 1_319, "validation": None}),
        ("meta-math/MetaMathQA", {"train": 395_000, "test": None}),
        ("explodinggradients/fiqa", {"train": 5_500, "validation": 500, "test": 648}),
        ("databricks/databricks-dolly-15k", {"train": 12_008, "validation": 2_252, "test[:5]": 751, "all": 15_011}),
        ("rajpurkar/squad", {"train": 83_219, "validation": 4_380, "test": 10_570, "all": 98_169}),
        ("owner/other", {"train": None}),
    ],
)
def test_rows_of_hub_splits_are_known(hub_id, sizes):
    assert {split: known_rows(Source(source=hub_id, split=split)) for split in sizes} == sizes


def test_a_split_rule_is_for_the_datasets_own_format_and_rows_for_its_own_configuration():
    assert known_rows(Source(source="databricks/databricks-dolly-15k", format="alpaca")) == 15_011
    assert known_rows(Source(source="openai/gsm8k", config="main")) == 7_473
    assert known_rows(Source(source="openai/gsm8k", config="other")) is None
    assert {name: dataset.CONFIG for name, dataset in DATASETS.items() if dataset.CONFIG} == {
        "gsm8k": "main", "fiqa": "main",
    }  # fmt: skip


NESTED = {
    "version": "v2.0",
    "data": [
        {"title": "Emma", "paragraphs": [{"context": "By Austen.", "qas": [
            {"id": "a", "question": "Who?", "answers": [{"text": "Austen", "answer_start": 3}], "is_impossible": False},
            {"id": "b", "question": "When?", "answers": [], "is_impossible": True},
            "broken",
            {"id": "c", "question": "Who wrote?", "answers": [{"text": 5}]},
        ]}, {"context": "No questions."}]},
        {"title": "Empty"},
        {"title": "More", "paragraphs": [{"qas": [{"question": "Q?", "answers": [{"text": "x"}]}]}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 1])
def test_a_nested_squad_file_gives_one_row_per_question_and_names_broken_parts(tmp_path, indent):
    (tmp_path / "dev.json").write_text(json.dumps(NESTED, indent=indent))
    examples, bad = _open(tmp_path, "dev.json", split="dev")
    assert [example.golds for example in examples] == [("Austen",)]
    assert [(row.origin, row.kind, row.reason.split(",")[0]) for row in bad] == [
        ("dev.json:row 2", "left out", "question without an answer (field 'answers'"),
        ("dev.json:row 3", "bad", "not an object (field 'data[0].paragraphs[0].qas[2]'"),
        ("dev.json:row 4", "bad", "not text (field 'answers[0].text'"),
        ("dev.json:row 5", "bad", "not a list (field 'data[0].paragraphs[1].qas'"),
        ("dev.json:row 6", "bad", "not a list (field 'data[1].paragraphs'"),
        ("dev.json:row 7", "bad", "missing key (field 'context'"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "split", "num_examples", "num_left_out"),
    [
        ("gsm8k/train.jsonl", "train", 7_473, 0),
        ("gsm8k/test.jsonl", "test", 1_319, 0),
        ("metamath/metamathqa_schema_from_backward.jsonl", "train", 613, 0),
        ("fiqa/fiqa_main_schema_333.jsonl", "train", 333, 0),
        ("dolly/dolly_short_pairs.jsonl", "all", 3_673, 0),
        ("squad/dev-v2.0.json", "all", 5_928, 5_945),
        ("squad/xquad.en.json", "all", 1_190, 0),
        ("squad/squad_v1.1_dev_1000.jsonl", "all", 1_000, 0),
    ],
)
def test_original_files_are_detected_and_read_without_a_bad_row(test_data, name, split, num_examples, num_left_out):
    source = Source(source=name, split=split)
    assert open_source(source, seed=1, base_folder=test_data).found_format == (
        name.partition("/")[0].replace("metamath", "metamathqa")
    )
    examples, bad = _open(test_data, name, split=split)
    assert (len(examples), len(bad)) == (num_examples, num_left_out)
    assert all(row.kind == "left out" for row in bad)
    assert all(example.golds for example in examples)


def test_every_taught_metamath_answer_is_judged_correct(test_data):
    examples, _ = _open(test_data, "metamath/metamathqa_schema_from_backward.jsonl")
    judged = [judge(example, example.messages[-1].content) for example in examples]
    assert all(each.is_correct and each.has_format for each in judged)


def test_the_parts_of_a_real_squad_file_are_the_file(test_data):
    whole, train, validation = (
        _open(test_data, "squad/squad_v1.1_dev_1000.jsonl", split=split)[0] for split in ("all", "train", "validation")
    )
    assert (len(train), len(validation)) == (950, 50)
    assert sorted(e.origin for e in (*train, *validation)) == sorted(e.origin for e in whole)
