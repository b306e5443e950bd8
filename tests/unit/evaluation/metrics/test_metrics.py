"""What every metric of the table promises."""

import re
import sys
from typing import get_args

import numpy as np
import pytest

from whet.errors import RecipeError
from whet.evaluation import metrics
from whet.evaluation.likelihood import GoldLikelihood
from whet.evaluation.metrics import METRICS, AnsweredRow, bleu, rouge, semantic_similarity
from whet.recipe.schema import MetricName

GOLDS = ("The cat sat on the mat.", "A cat was sitting on a mat")
ROWS = [
    AnsweredRow(
        text="The cat sat on the mat", golds=GOLDS, is_correct=True, has_stopped=True, seconds=0.5,
        gold=GoldLikelihood(nll=3.0, num_tokens=6, num_correct=5),
    ),
    AnsweredRow(
        text="Dogs bark loudly at night", golds=GOLDS, is_correct=False, has_stopped=False, seconds=1.5,
        gold=GoldLikelihood(nll=12.0, num_tokens=6, num_correct=0),
    ),
    AnsweredRow(text="", golds=GOLDS, is_correct=False, has_stopped=True, seconds=0.1),
    AnsweredRow(text="the cat sat on the mat, the cat sat on the mat", golds=GOLDS[:1], is_correct=True, seconds=0.2),
    AnsweredRow(text="no gold"),
]  # fmt: skip


class WordBag:
    """An encoder whose vectors are counts of words, so that no weights are needed."""

    def embed(self, texts):
        words = sorted({word for text in texts for word in text.lower().split()})
        vectors = np.array([[float(text.lower().split().count(word)) for word in words] for text in texts])
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.zeros(len(texts), bool)


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch):
    monkeypatch.setattr(semantic_similarity, "default_encoder", WordBag)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_scores_each_row_for_itself_and_in_order(name):
    score_rows = METRICS[name].score_rows
    together = score_rows(ROWS)
    assert len(together) == len(ROWS)
    assert together == pytest.approx([score_rows([row])[0] for row in ROWS])
    assert score_rows(ROWS[::-1]) == pytest.approx(together[::-1])
    assert all(score is None or type(score) is float for score in together)
    assert score_rows([]) == []


@pytest.mark.parametrize("name", METRICS)
def test_a_row_without_what_the_metric_needs_has_no_score(name):
    bare = METRICS[name].score_rows([AnsweredRow(text="no gold")])[0]
    assert (bare is None) == bool(METRICS[name].needs)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if "golds" in metric.needs])
def test_a_gold_scores_best_and_further_golds_never_cost(name):
    score_rows = METRICS[name].score_rows
    gold, other = "The quick brown fox jumps over it", "Nothing alike here at all"
    best, worst = score_rows([AnsweredRow(text=gold, golds=(gold,)), AnsweredRow(text=other, golds=(gold,))])
    assert best == pytest.approx(100.0 if name == "bleu" else 1.0)
    assert worst < best
    assert score_rows([AnsweredRow(text=gold, golds=(other, gold))])[0] == pytest.approx(best)
    assert score_rows([AnsweredRow(text="", golds=(gold,))])[0] == 0.0


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_its_unit_direction_and_source(name):
    metric = METRICS[name]
    assert re.fullmatch(r"[a-z0-9_]+L?", name)
    assert metric.unit
    assert metric.source
    assert metric.higher_is_better in (True, False, None)
    if metric.unit.startswith("share"):
        assert all(score is None or 0 <= score <= 1 for score in metric.score_rows(ROWS))


def test_judgements_stops_and_seconds_are_the_rows_own():
    assert METRICS["answer_accuracy"].score_rows(ROWS) == [1.0, 0.0, 0.0, 1.0, None]
    assert METRICS["stop_rate"].score_rows(ROWS) == [1.0, 0.0, 1.0, None, None]
    assert METRICS["seconds_per_example"].score_rows(ROWS) == [0.5, 1.5, 0.1, 0.2, None]
    assert METRICS["answer_length"].score_rows(ROWS) == [6.0, 5.0, 0.0, 12.0, 2.0]


def test_the_table_has_every_metric_that_a_recipe_may_name_and_no_other():
    assert set(METRICS) == set(get_args(MetricName))


def test_the_mean_is_over_the_rows_that_have_a_score():
    assert metrics.mean([1.0, None, 0.0]) == 0.5
    assert metrics.mean([None]) is None


@pytest.mark.parametrize(
    ("library", "call"), [("rouge_score.rouge_scorer", lambda: rouge.score("a", ("a",), kind="rougeL")),
                          ("sacrebleu.metrics.bleu", lambda: bleu.score("a", ("a",)))],
)  # fmt: skip
def test_a_missing_library_is_named_with_the_command_that_mends_it(library, call, monkeypatch):
    rouge._scorer.cache_clear()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(RecipeError, match=r"pip install 'whet\[metrics\]'"):
        call()
