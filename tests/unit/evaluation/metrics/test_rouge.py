"""ROUGE equals its definition: subsequences by brute force, n-grams by counting."""

import random
import re
from itertools import combinations

import pytest
from nltk.stem.porter import PorterStemmer

from whet.evaluation.metrics import rouge

WORDS = ["cats", "cat", "running", "runs", "the", "mat", "on", "flies"]


def stems(text: str) -> list[str]:
    """rouge-score leaves words of up to three letters as they are."""
    stem = PorterStemmer().stem
    return [stem(word) if len(word) > 3 else word for word in re.findall(r"[a-z0-9]+", text.lower())]


def longest_common(one: list[str], other: list[str]) -> int:
    """By trying every subsequence of the one."""
    for size in range(len(one), 0, -1):
        for picked in combinations(one, size):
            rest = iter(other)
            if all(word in rest for word in picked):
                return size
    return 0


def shared_ngrams(one: list[str], other: list[str], size: int) -> tuple[int, int, int]:
    ours = [tuple(one[i : i + size]) for i in range(len(one) - size + 1)]
    theirs = [tuple(other[i : i + size]) for i in range(len(other) - size + 1)]
    left, num_same = list(theirs), 0
    for ngram in ours:
        if ngram in left:
            left.remove(ngram)
            num_same += 1
    return num_same, len(ours), len(theirs)


def f_measure(num_same: int, num_ours: int, num_theirs: int) -> float:
    if not num_same:
        return 0.0
    precision, recall = num_same / num_ours, num_same / num_theirs
    return 2 * precision * recall / (precision + recall)


def test_rouge_equals_brute_force_on_random_texts():
    generator = random.Random(1)
    for _ in range(150):
        text, gold = (" ".join(generator.choices(WORDS, k=generator.randint(0, 9))) for _ in range(2))
        ours, theirs = stems(text), stems(gold)
        lcs = f_measure(longest_common(ours, theirs), len(ours), len(theirs))
        assert rouge.score(text, (gold,), kind="rougeL") == pytest.approx(lcs, abs=1e-12)
        for size in (1, 2):
            expected = f_measure(*shared_ngrams(ours, theirs, size))
            assert rouge.score(text, (gold,), kind=f"rouge{size}") == pytest.approx(expected, abs=1e-12)


def test_stems_count_as_equal_and_order_matters_for_rouge_l_alone():
    assert rouge.score("he was running", ("he was runs",), kind="rougeL") == 1.0
    assert rouge.score("one two three four", ("four three two one",), kind="rouge1") == 1.0
    assert rouge.score("one two three four", ("four three two one",), kind="rougeL") == 0.25


def test_the_best_gold_counts():
    assert rouge.score("on the mat", ("nothing", "on the mat"), kind="rougeL") == 1.0


def test_another_script_scores_nothing():
    assert rouge.score("\u732b\u304c\u3044\u308b", ("\u732b\u304c\u3044\u308b",), kind="rougeL") == 0.0
