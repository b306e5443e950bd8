"""The line of figures is the one that NeMo's script would print of the rows that were written."""

from __future__ import annotations

import json
import random
import re
import string
from collections import Counter

import pytest
from rouge_score.rouge_scorer import RougeScorer

from whet.evaluation import nemo_rows
from whet.evaluation.metrics import rouge
from whet.types import EvalReport, Example, Generation, Judgement, Message

WORDS = ("The", "a", "an", "Denver", "Broncos,", "won.", "in", "2015", "U.S.A.", "it's", "theory", "Santa-Clara")


def normal(text: str) -> list[str]:
    """As the script's comments say: lower case, no punctuation, no articles, single spaces."""
    text = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1(answer: str, gold: str) -> float:
    same = sum((Counter(normal(answer)) & Counter(normal(gold))).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(normal(answer)), same / len(normal(gold))
    return 2 * precision * recall / (precision + recall)


def report(texts: list[str], golds: list[tuple[str, ...]]) -> tuple[list[Example], EvalReport]:
    examples = [
        Example(
            id=f"{n}", task="plain_answer", golds=golds[n],
            messages=(Message(role="user", content="Who?"), Message(role="assistant", content=golds[n][0])),
        )
        for n in range(len(texts))
    ]  # fmt: skip
    generations = [
        Generation(example_id=f"{n}", prompt="", text=text, num_new_tokens=1, stopped="length")
        for n, text in enumerate(texts)
    ]
    judgements = [
        Judgement(example_id=f"{n}", extracted="", golds=golds[n], is_correct=False, has_format=True)
        for n in range(len(texts))
    ]
    return examples, EvalReport(
        model="tuned", dataset="d", decoding="greedy", rows_fingerprint="", generations=tuple(generations),
        judgements=tuple(judgements), seconds=0.0,
    )  # fmt: skip


def test_the_line_is_what_the_script_makes_of_the_rows(tmp_path):
    chance = random.Random(3)

    def text() -> str:
        return " ".join(chance.choice(WORDS) for _ in range(chance.randint(1, 5)))

    golds = [tuple(text() for _ in range(chance.randint(1, 3))) for _ in range(60)]
    texts = [f" {chance.choice(each)}" if chance.random() < 0.3 else text() for each in golds]
    rows = nemo_rows.nemo_rows(*report(texts, golds))
    nemo_rows.write_rows(tmp_path / "rows.jsonl", rows)
    read = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    pairs = [(row["prediction"], row.get("original_answers", [row["label"]])) for row in read]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    expected = {
        "exact_match": [max(normal(p) == normal(t) for t in truths) for p, truths in pairs],
        "f1": [max(f1(p, t) for t in truths) for p, truths in pairs],
        "rougeL": [max(scorer.score(t, p)["rougeL"].fmeasure for t in truths) for p, truths in pairs],
    }
    means = [f"{name} {100 * sum(scores) / 60:.3f}" for name, scores in expected.items()]
    assert nemo_rows.metric_line(rows) == "\t".join([*means, "total 60.000"])


def test_a_worked_answer_is_compared_as_a_whole_like_the_label_of_the_row():
    examples, answered = report(["48"], [("So it is 48",)])
    assert nemo_rows.metric_line(nemo_rows.nemo_rows(examples, answered)).startswith("exact_match 0.000\tf1 40.000\t")


def test_without_rouge_score_the_line_says_what_is_missing(monkeypatch):
    rouge._scorer.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "rouge_score.rouge_scorer", None)
    line = nemo_rows.metric_line(nemo_rows.nemo_rows(*report(["a b"], [("b",)])))
    assert "rougeL unknown (pip install 'whet[metrics]')" in line


@pytest.fixture(autouse=True)
def _scorers_are_made_anew():
    yield
    rouge._scorer.cache_clear()
