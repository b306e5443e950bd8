"""Perplexity of the gold answer: exp(loss) of the row, 1 where every token of it was certain.

The mean over rows is a mean of rows, and one row that the model finds absurd can rule it. The figure of papers, over
all tokens of the set together, is exp(sum of nll / sum of tokens): `corpus_perplexity`, which has no paired rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from whet.evaluation.metrics import loss
from whet.evaluation.metrics.answered_row import AnsweredRow

_MOST_NATS = 100.0
"""Beyond any model that computes numbers (a uniform guess among 128,256 tokens takes 11.8); sums of exp stay finite."""


def score(row: AnsweredRow) -> float | None:
    """1 or more; None for a row without a gold answer that the model can read."""
    nats = loss.score(row)
    return None if nats is None else math.exp(min(nats, _MOST_NATS))


def score_corpus(rows: Sequence[AnsweredRow]) -> float | None:
    """exp(sum of nll / sum of tokens) over the rows that have a gold answer; None where none has."""
    golds = [row.gold for row in rows if row.gold is not None]
    if not golds:
        return None
    nats = math.fsum(gold.nll for gold in golds) / sum(gold.num_tokens for gold in golds)
    return math.exp(min(nats, _MOST_NATS))
