"""Answers of one model to one set -> scores of every row and figures of the whole set.

Scores are a judgement: they are computed anew from what is kept of the answers, so that another choice of metrics
generates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from whet.data.datasets import require_judge
from whet.evaluation import metrics
from whet.evaluation.metrics import METRICS, AnsweredRow, bleu, perplexity
from whet.recipe.schema import Evaluate
from whet.types import Example, Generation, Judgement

if TYPE_CHECKING:
    from whet.evaluation.likelihood import GoldLikelihood

Scores = dict[str, tuple[float | None, ...]]


def require(sets: Sequence[Evaluate]) -> None:
    """Fail now where a metric or the judge of one of these sets lacks a library or the encoder.

    RecipeError or HubError says how to get it.
    """
    for entry in sets:
        metrics.require(entry.metrics)
        require_judge(entry.judge)


def answered_rows(
    examples: Sequence[Example],
    generations: Sequence[Generation],
    judgements: Sequence[Judgement],
    likelihoods: Sequence[GoldLikelihood | None] | None = None,
) -> list[AnsweredRow]:
    """What the metrics are given; all of the same rows in the same order. `likelihoods`: None where not measured."""
    golds = [None] * len(generations) if likelihoods is None else likelihoods
    return [
        AnsweredRow(
            text=generation.text,
            golds=example.golds,
            is_correct=judgement.is_correct,
            has_stopped=generation.stopped != "length",
            seconds=generation.seconds,
            gold=gold,
        )
        for example, generation, judgement, gold in zip(examples, generations, judgements, golds, strict=True)
    ]


def score_rows(names: Sequence[str], rows: Sequence[AnsweredRow]) -> Scores:
    """One score a row for each metric, in the order of `names`."""
    return {name: tuple(METRICS[name].score_rows(rows)) for name in names}


def score_set(names: Sequence[str], rows: Sequence[AnsweredRow]) -> dict[str, float]:
    """The figures of papers that are no mean over rows, of those metrics that have one: `corpus_bleu` (0 to 100),
    `corpus_perplexity` (exp of the loss over all taught tokens together)."""
    figures = {}
    if "bleu" in names:
        figures["corpus_bleu"] = bleu.score_corpus(rows)[0]
    # loss and perplexity are one measurement, and the loss of the whole set is the logarithm of this figure
    if {"loss", "perplexity"} & set(names) and (found := perplexity.score_corpus(rows)) is not None:
        figures["corpus_perplexity"] = found
    return figures
