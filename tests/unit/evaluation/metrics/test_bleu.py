"""BLEU equals the formula of the paper, row by row and over a corpus with unequal numbers of golds."""

from collections import Counter
from math import exp, log

import pytest

from whet.evaluation.metrics import AnsweredRow, bleu


def ngrams(words: list[str], size: int) -> Counter:
    return Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))


def bleu_by_hand(pairs: list[tuple[list[str], list[list[str]]]]) -> float:
    """Papineni et al. 2002, section 2.3, without smoothing: every order must have a match."""
    length = sum(len(answer) for answer, _ in pairs)
    closest = sum(min((abs(len(g) - len(a)), len(g)) for g in golds)[1] for a, golds in pairs)
    log_precision = 0.0
    for size in (1, 2, 3, 4):
        matched = total = 0
        for answer, golds in pairs:
            counts = ngrams(answer, size)
            allowed = Counter()
            for gold in golds:
                allowed |= ngrams(gold, size)
            matched += sum((counts & allowed).values())
            total += sum(counts.values())
        log_precision += log(matched / total) / 4
    return 100 * exp(log_precision) * (1.0 if length > closest else exp(1 - closest / length))


ANSWERS = ["the cat sat on the mat today", "there is a big dog in the garden now"]
GOLDS = [("the cat sat on the mat", "a cat sat on the red mat today"), ("there is a big dog in our garden",)]


@pytest.mark.parametrize(("text", "golds"), list(zip(ANSWERS, GOLDS, strict=True)))
def test_a_row_equals_the_formula(text, golds):
    expected = bleu_by_hand([(text.split(), [gold.split() for gold in golds])])
    assert bleu.score(text, golds) == pytest.approx(expected)


def test_a_corpus_equals_the_formula_and_is_not_the_mean_of_its_rows():
    rows = [AnsweredRow(text=text, golds=golds) for text, golds in zip(ANSWERS, GOLDS, strict=True)]
    pairs = [(text.split(), [gold.split() for gold in golds]) for text, golds in zip(ANSWERS, GOLDS, strict=True)]
    score, signature = bleu.score_corpus([*rows, AnsweredRow(text="no gold")])
    assert score == pytest.approx(bleu_by_hand(pairs))
    assert score != pytest.approx(sum(bleu.score(row.text, row.golds) for row in rows) / 2)
    assert "tok:13a" in signature
    assert bleu.score_corpus([AnsweredRow(text="no gold")]) == (0.0, "")


def test_a_short_right_answer_is_not_punished_for_having_no_four_grams():
    assert bleu.score("Denver Broncos", ("Denver Broncos",)) == pytest.approx(100.0)
