"""Exact match and F1 equal SQuAD's definition, written out step by step as NeMo's script has it."""

import json
import random
import string

import pytest

from whet.evaluation.metrics import exact_match, token_f1
from whet.evaluation.metrics.squad_text import normalize


def words_step_by_step(text: str) -> list[str]:
    kept = [character for character in text.lower() if character not in string.punctuation]
    return [word for word in "".join(kept).split() if word not in ("a", "an", "the")]


def f1_step_by_step(answer: str, gold: str) -> float:
    ours, theirs = words_step_by_step(answer), words_step_by_step(gold)
    left, num_same = list(theirs), 0
    for word in ours:
        if word in left:
            left.remove(word)
            num_same += 1
    if num_same == 0:
        return 0.0
    precision, recall = num_same / len(ours), num_same / len(theirs)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("The  Cat!", "cat"), ("U.S.A.", "usa"), ("an a the", ""), ("Theatre", "theatre"), (" Denver\nBroncos ",
     "denver broncos"), ("well-known", "wellknown"),
     ("\u201cquoted\u201d", "\u201cquoted\u201d"), ("a\u2014b", "\u2014b"), ("x\u2014the\u2014y", "x\u2014 \u2014y")],
)  # fmt: skip
def test_the_normal_form(text, expected):
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("text", "golds", "match", "f1"),
    [
        (" Denver Broncos", ("Denver Broncos",), 1.0, 1.0),
        ("the Denver Broncos.", ("denver broncos",), 1.0, 1.0),
        ("Levi's Stadium", ("Santa Clara, California", "Levi's Stadium"), 1.0, 1.0),
        ("Levi's Stadium in Santa Clara", ("Santa Clara", "Levi's Stadium"), 0.0, 4 / 7),
        ("2003", ("1983",), 0.0, 0.0),
        ("", ("x",), 0.0, 0.0),
        # NeMo's script: empty against empty matches, and shares no word
        ("the", ("a",), 1.0, 0.0),
        ("cat cat", ("cat",), 0.0, 2 / 3),
    ],
)
def test_the_best_gold_counts(text, golds, match, f1):
    assert exact_match.score(text, golds) == match
    assert token_f1.score(text, golds) == pytest.approx(f1)


def test_f1_equals_the_definition_on_random_texts():
    generator = random.Random(0)
    words = ["the", "cat", "Cat,", "sat", "a", "mat.", "on", "U.S.", "-", "an"]
    for _ in range(500):
        text, *golds = (" ".join(generator.choices(words, k=generator.randint(0, 8))) for _ in range(3))
        expected = max(f1_step_by_step(text, gold) for gold in golds)
        assert token_f1.score(text, tuple(golds)) == pytest.approx(expected, abs=1e-12)
        is_match = any(words_step_by_step(text) == words_step_by_step(gold) for gold in golds)
        assert exact_match.score(text, tuple(golds)) == is_match


def test_every_squad_gold_matches_itself(test_data):
    lines = (test_data / "squad" / "squad_v1.1_dev_1000.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [tuple(json.loads(line)["answers"]["text"]) for line in lines]
    assert len(rows) == 1000
    assert all(exact_match.score(golds[-1], golds) == 1.0 for golds in rows)
    assert all(token_f1.score(golds[-1], golds) == 1.0 for golds in rows if normalize(golds[-1]))
