"""Scores come in the recipe's order, one a row; figures of the whole set are no means over rows."""

from __future__ import annotations

import math
import sys

import pytest
import sacrebleu

from whet.errors import RecipeError
from whet.evaluation import scoring
from whet.evaluation.likelihood import GoldLikelihood
from whet.evaluation.metrics import METRICS, rouge
from whet.recipe.schema import Evaluate, Source
from whet.types import Example, Generation, Judgement

TEXTS = ("a loan that is traded on markets", "a debt", "no idea at all what that is")
GOLDS = ("a loan that can be traded on markets", "a debt security", "a bond is a kind of loan")
LIKELIHOODS = (
    GoldLikelihood(nll=8.0, num_tokens=4, num_correct=1),
    None,
    GoldLikelihood(nll=1.0, num_tokens=10, num_correct=9),
)


def rows(likelihoods=LIKELIHOODS):
    numbers = range(3)
    return scoring.answered_rows(
        [Example(id=str(n), messages=(), task="plain_answer", golds=(GOLDS[n],)) for n in numbers],
        [
            Generation(example_id=str(n), prompt="", text=TEXTS[n], num_new_tokens=3, stopped=end, seconds=0.5 + n)
            for n, end in zip(numbers, ("stop_token", "stop_string", "length"), strict=True)
        ],
        [
            Judgement(example_id=str(n), extracted="", golds=(GOLDS[n],), is_correct=n == 1, has_format=True)
            for n in numbers
        ],
        likelihoods,
    )


def test_scores_are_the_rows_own_in_the_order_of_the_recipe():
    names = ("loss", "answer_accuracy", "stop_rate", "seconds_per_example", "token_accuracy", "perplexity")
    scores = scoring.score_rows(names, rows())
    assert tuple(scores) == names
    assert scores["loss"] == (2.0, None, 0.1)
    assert scores["token_accuracy"] == (0.25, None, 0.9)
    assert scores["perplexity"] == pytest.approx((math.exp(2), None, math.exp(0.1)))
    assert scores["answer_accuracy"] == (0.0, 1.0, 0.0)
    assert scores["stop_rate"] == (1.0, 1.0, 0.0)
    assert scores["seconds_per_example"] == (0.5, 1.5, 2.5)


def test_perplexity_of_the_set_weighs_tokens_and_bleu_of_the_set_counts_ngrams_together():
    figures = scoring.score_set(("perplexity", "bleu"), rows())
    assert figures["corpus_perplexity"] == pytest.approx(math.exp(9.0 / 14))
    assert figures["corpus_bleu"] == pytest.approx(sacrebleu.corpus_bleu(list(TEXTS), [list(GOLDS)]).score)
    assert scoring.score_set(("loss",), rows()) == {"corpus_perplexity": figures["corpus_perplexity"]}
    assert scoring.score_set(("token_f1", "token_accuracy"), rows()) == {}
    assert scoring.score_set(("loss",), rows(likelihoods=None)) == {}


def test_what_was_not_measured_has_no_score():
    assert scoring.score_rows(("loss", "perplexity", "token_accuracy"), rows(None)) == dict.fromkeys(
        ("loss", "perplexity", "token_accuracy"), (None, None, None)
    )


def test_an_absurd_loss_stays_a_number():
    absurd = [GoldLikelihood(nll=1e6, num_tokens=1, num_correct=0)] * 3
    scores = scoring.score_rows(("perplexity",), rows(absurd))["perplexity"]
    assert all(math.isfinite(score) for score in scores)
    assert math.isfinite(scoring.score_set(("perplexity",), rows(absurd))["corpus_perplexity"])


@pytest.mark.parametrize(
    ("entry", "module", "extra"),
    [
        ({"metrics": ("token_f1", "rouge2")}, "rouge_score.rouge_scorer", "metrics"),
        ({"metrics": ("bleu",)}, "sacrebleu.metrics.bleu", "metrics"),
        ({"judge": "math_verify"}, "math_verify", "math"),
    ],
)
def test_a_missing_library_is_told_before_anything_is_answered(monkeypatch, entry, module, extra):
    sets = [Evaluate(name="a", source=Source(source="a.jsonl")), Evaluate(name="b", source=Source(source="b"), **entry)]
    scoring.require(sets)
    rouge._scorer.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RecipeError, match=rf"pip install 'whet\[{extra}\]'"):
        scoring.require(sets)
    scoring.require(sets[:1])


def test_a_missing_encoder_is_told_before_anything_is_answered(monkeypatch, tmp_path):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path))
    monkeypatch.setenv("WHET_SIMILARITY_WHEEL", str(tmp_path / "nowhere.whl"))
    entry = Evaluate(name="a", source=Source(source="a.jsonl"), metrics=("semantic_similarity",))
    with pytest.raises(RecipeError, match="WHET_SIMILARITY_WHEEL names no file"):
        scoring.require([entry])


def test_every_metric_that_looks_at_the_golds_probabilities_says_so():
    asking = {name for name, metric in METRICS.items() if "likelihood" in metric.needs}
    assert asking == {"loss", "perplexity", "token_accuracy"}
