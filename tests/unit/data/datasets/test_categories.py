"""A row's category is told where its dataset has one, and changes nothing else of the row."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from whet.data.datasets import dolly, fiqa, gsm8k, metamathqa, squad
from whet.data.files import RawRow
from whet.data.rows import RowReader
from whet.data.sources import open_source
from whet.recipe.schema import Source

DOLLY = {"instruction": "Who wrote Emma?", "context": "", "response": "Jane Austen"}


def test_dolly_says_its_category_and_metamathqa_its_type():
    assert dolly.read({**DOLLY, "category": "closed_qa"}).category == "closed_qa"
    row = {"query": "q", "response": "The answer is: 5", "type": "GSM_Rephrased"}
    assert metamathqa.read(row).category == "GSM_Rephrased"


@pytest.mark.parametrize("value", [None, 7, ["a"], "two\nlines", "half \ud800", "  "])
def test_a_category_that_is_no_label_is_none_and_no_fault(value):
    assert dolly.read({**DOLLY, "category": value}).category == ""


@pytest.mark.parametrize(
    ("answer", "category"),
    [
        ("48/2 = <<48/2=24>>24\n24+48 = <<24+48=72>>72\n#### 72", "2 steps"),
        ("48/2 = <<48/2=24>>24\n#### 24", "1 step"),
        ("It is 24.\n#### 24", ""),
    ],
)
def test_gsm8k_s_category_is_the_number_of_its_calculations(answer, category):
    assert gsm8k.read({"question": "q", "answer": answer}).category == category


def test_squad_and_fiqa_have_none():
    row = {"context": "Emma.", "question": "Who?", "answers": {"text": ["E"], "answer_start": [0]}}
    assert squad.read(row).category == ""
    assert fiqa.read({"question": "q", "ground_truths": ["a"]}).category == ""


def test_generated_problems_carry_their_generator_s_name():
    source = Source(source="reasoning-gym:chain_sum", rows=2)
    examples = list(open_source(source, seed=1, base_folder=None).read())
    assert [example.category for example in examples] == ["chain_sum", "chain_sum"]


def test_a_category_changes_neither_id_nor_anything_else_of_the_example():
    def example(**extra):
        return RowReader(format_name="dolly").read(RawRow(origin="rows:1", value={**DOLLY, **extra}))

    assert example(category="open_qa").category == "open_qa"
    assert replace(example(category="open_qa"), category="") == example()


def test_a_row_s_category_may_stand_under_another_key(tmp_path):
    rows = [{"instruction": "Who?", "response": "Jane", "kind": "open_qa"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(source="rows.jsonl", split="all", format="dolly", fields={"category": "kind"})
    (example,) = open_source(source, seed=1, base_folder=tmp_path).read()
    assert example.category == "open_qa"
