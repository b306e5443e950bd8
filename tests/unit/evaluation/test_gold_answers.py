"""Likelihoods of gold answers are measured once per row and model, in blocks, and come out the same after any crash."""

from __future__ import annotations

import json

import pytest

from whet.errors import NonFiniteError, StorageError
from whet.evaluation.gold_answers import BLOCK_ROWS, GoldAnswers
from whet.evaluation.likelihood import GoldLikelihood
from whet.evaluation.questions import AnswerKey
from whet.types import Example

KEY = AnswerKey(weights="w", rows="r", decoding="greedy", code="c")
EXAMPLES = [Example(id=f"{n}-0", messages=(), task="plain_answer", origin=f"rows:{n}") for n in range(40)]


class Model:
    """Its likelihoods depend on the rows that are measured together, as rounding does; every fifth row has none."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, examples):
        self.asked += [example.id for example in examples]
        beside = len(examples) + int(examples[0].id[:-2]) / 100
        return [
            None
            if int(e.id[:-2]) % 5 == 4
            else GoldLikelihood(nll=int(e.id[:-2]) + beside, num_tokens=7, num_correct=3)
            for e in examples
        ]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))


def gold_answers(folder, measure, *, model="tuned", key=KEY, fresh=False) -> GoldAnswers:
    return GoldAnswers(folder, model, key, EXAMPLES, measure, fresh=fresh)


def test_rows_are_measured_once_however_often_and_far_they_are_asked_for(tmp_path):
    whole, model = Model(), Model()
    expected = gold_answers(tmp_path / "a", whole).reach(40)
    assert expected[4] is None and expected[5].num_tokens == 7
    step_by_step = gold_answers(tmp_path / "b", model)
    for num_rows in (3, 8, 16, 17, 40):
        assert step_by_step.reach(num_rows) == expected[:num_rows]
    assert model.asked == [example.id for example in EXAMPLES]
    again = Model()
    assert gold_answers(tmp_path / "b", again).reach(40) == expected
    assert again.asked == []


@pytest.mark.parametrize("num_bytes_cut", [1, 30, 400])
def test_a_cut_file_is_measured_again_from_the_last_whole_block(tmp_path, num_bytes_cut):
    expected = gold_answers(tmp_path, Model()).reach(40)
    path = tmp_path / "tuned.likelihoods.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-num_bytes_cut])
    model = Model()
    assert gold_answers(tmp_path, model).reach(40) == expected
    assert path.read_bytes() == whole
    assert len(model.asked) % BLOCK_ROWS == len(EXAMPLES) % BLOCK_ROWS


@pytest.mark.parametrize("line", ["[1.0, 0, 0]", "[1.0, 7]", "[NaN, 7, 3]", '"x"', "{", "[1, 7, 3]"])
def test_a_damaged_line_is_not_believed(tmp_path, line):
    expected = gold_answers(tmp_path, Model()).reach(40)
    path = tmp_path / "tuned.likelihoods.jsonl"
    lines = path.read_text().splitlines()
    lines[21] = line
    path.write_text("\n".join(lines) + "\n")
    model = Model()
    assert gold_answers(tmp_path, model).reach(40) == expected
    assert model.asked == [example.id for example in EXAMPLES[16:]]


def test_another_model_or_fresh_measures_anew(tmp_path):
    gold_answers(tmp_path, Model()).reach(40)
    model = Model()
    gold_answers(tmp_path, model, fresh=True).reach(16)
    assert len(model.asked) == 16
    other = AnswerKey(weights="v", rows="r", decoding="greedy", code="c")
    gold_answers(tmp_path, model, key=other).reach(1)
    assert len(model.asked) == 32


def test_decoding_and_metrics_do_not_matter(tmp_path):
    gold_answers(tmp_path, Model()).reach(40)
    model = Model()
    gold_answers(tmp_path, model, key=AnswerKey(weights="w", rows="r", decoding="sampled", code="d")).reach(40)
    assert model.asked == []


def test_other_runs_of_a_base_take_its_likelihoods_and_a_tuned_model_s_are_its_own(tmp_path):
    for model, num_asked in (("base", 0), ("tuned", 16)):
        first = gold_answers(tmp_path / "a", Model(), model=model)
        first.reach(40)
        first.share()
        other = Model()
        gold_answers(tmp_path / "b", other, model=model).reach(16)
        assert len(other.asked) == num_asked


def test_a_likelihood_that_is_no_number_names_its_row(tmp_path):
    def broken(examples):
        return [GoldLikelihood(nll=float("nan"), num_tokens=1, num_correct=0) for _ in examples]

    with pytest.raises(NonFiniteError, match="rows:0: the likelihood of the gold answer is nan"):
        gold_answers(tmp_path, broken).reach(1)
    assert json.loads((tmp_path / "tuned.likelihoods.jsonl").read_text())["key"]["weights"] == "w"


def test_a_full_disk_is_told_with_the_file(tmp_path):
    golds = gold_answers(tmp_path, Model())
    (tmp_path / "tuned.likelihoods.jsonl").unlink()
    (tmp_path / "tuned.likelihoods.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"tuned\.likelihoods\.jsonl: could not be written"):
        golds.reach(1)
