"""Metrics of answered rows by name: a plain table, one line per metric, each a small file of its own.

Every metric scores row by row, so that two models can be compared on the same rows (evaluation/statistics.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from whet.evaluation.metrics import (
    answer_accuracy,
    answer_length,
    bleu,
    exact_match,
    loss,
    perplexity,
    rouge,
    seconds_per_example,
    semantic_similarity,
    stop_rate,
    token_accuracy,
    token_f1,
)
from whet.evaluation.metrics.answered_row import AnsweredRow, ScoreRows, by_row, by_text
from whet.evaluation.metrics.encoder_weights import fetch_encoder

__all__ = ["METRICS", "SECONDS", "AnsweredRow", "Metric", "Need", "mean", "need_likelihoods", "require"]

Need = Literal["golds", "judgement", "stop", "seconds", "likelihood", "metrics extra", "encoder"]


def _nothing() -> None:
    """Most metrics take nothing but the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric of answered rows. Invariant: as many scores as rows, in their order, each row's own affair."""

    score_rows: ScoreRows
    """rows -> scores; None where a row cannot be scored"""
    unit: str
    higher_is_better: bool | None
    """None: neither direction is a gain, or its rows are no independent measurements; there is no verdict on it"""
    needs: tuple[Need, ...]
    """what a row must carry, and what must be installed or fetched (`metrics extra`: pip install 'whet[metrics]')"""
    source: str
    """whose definition and whose code"""
    require: Callable[[], object] = _nothing
    """Fetches or imports what scoring takes, so that nothing is missing when the answers are there; RecipeError or
    HubError says how to get it."""


def _rouge(kind: rouge.Kind, what: str) -> Metric:
    return Metric(
        score_rows=by_text(partial(rouge.score, kind=kind)),
        unit="share, 0 to 1",
        higher_is_better=True,
        needs=("golds", "metrics extra"),
        source=f"{what} F with Porter stemmer, best gold; Lin 2004, rouge-score",
        require=rouge.require,
    )


SECONDS = "seconds_per_example"
"""Not measured row by row, as all the others are: rows that were answered together share their time."""

METRICS: dict[str, Metric] = {
    "answer_accuracy": Metric(
        score_rows=by_row(answer_accuracy.score),
        unit="share, 0 or 1",
        higher_is_better=True,
        needs=("judgement",),
        source="the dataset's own extraction and comparison",
    ),
    "exact_match": Metric(
        score_rows=by_text(exact_match.score),
        unit="share, 0 or 1",
        higher_is_better=True,
        needs=("golds",),
        source="SQuAD's normal form, best gold, as in NeMo's script; arXiv:1606.05250",
    ),
    "token_f1": Metric(
        score_rows=by_text(token_f1.score),
        unit="share, 0 to 1",
        higher_is_better=True,
        needs=("golds",),
        source="bag of words in SQuAD's normal form, best gold, as in NeMo's script; arXiv:1606.05250",
    ),
    "rouge1": _rouge("rouge1", "unigram"),
    "rouge2": _rouge("rouge2", "bigram"),
    "rougeL": _rouge("rougeL", "longest common subsequence"),
    "bleu": Metric(
        score_rows=by_text(bleu.score),
        unit="BLEU points, 0 to 100",
        higher_is_better=True,
        needs=("golds", "metrics extra"),
        source="sentence BLEU-4, 13a tokens, exponential smoothing, all golds as references; sacrebleu",
        require=bleu.require,
    ),
    "semantic_similarity": Metric(
        score_rows=semantic_similarity.score_rows,
        unit="cosine, -1 to 1",
        higher_is_better=True,
        needs=("golds", "encoder"),
        source="all-MiniLM-L6-v2 (first 256 word pieces), best gold; arXiv:1908.10084",
        require=fetch_encoder,
    ),
    "loss": Metric(
        score_rows=by_row(loss.score),
        unit="nats per token",
        higher_is_better=False,
        needs=("likelihood",),
        source="gold answer and end of turn, teacher-forced; whet",
    ),
    "perplexity": Metric(
        score_rows=by_row(perplexity.score),
        unit="choices per token, 1 or more",
        higher_is_better=False,
        needs=("likelihood",),
        source="exp of the row's loss; whet",
    ),
    "token_accuracy": Metric(
        score_rows=by_row(token_accuracy.score),
        unit="share, 0 to 1",
        higher_is_better=True,
        needs=("likelihood",),
        source="most probable token, gold answer and end of turn, teacher-forced; whet",
    ),
    "answer_length": Metric(
        score_rows=by_row(answer_length.score),
        unit="words",
        higher_is_better=None,
        needs=(),
        source="white space",
    ),
    "stop_rate": Metric(
        score_rows=by_row(stop_rate.score),
        unit="share, 0 or 1",
        higher_is_better=True,
        needs=("stop",),
        source="whether the answer ended before the length limit",
    ),
    SECONDS: Metric(
        score_rows=by_row(seconds_per_example.score),
        unit="seconds",
        higher_is_better=None,
        needs=("seconds",),
        source="wall time",
    ),
}


def mean(scores: Sequence[float | None]) -> float | None:
    """Mean of the scores that there are; None where there are none."""
    scored = [score for score in scores if score is not None]
    return sum(scored) / len(scored) if scored else None


def require(names: Iterable[str]) -> None:
    """Fail now where one of these metrics lacks a library or the encoder, with how to get it."""
    for name in names:
        METRICS[name].require()


def need_likelihoods(names: Iterable[str]) -> bool:
    """Whether one of these metrics looks at the probabilities of the gold answers."""
    return any("likelihood" in METRICS[name].needs for name in names)
