"""What a metric is given of one row: the answer that is scored, the golds, and what is known of how it came about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whet.evaluation.likelihood import GoldLikelihood


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRow:
    """One answer beside its golds. What is not known is None, and a metric that needs it gives None for the row."""

    text: str
    """the answer as it is to be scored, cut behind the prompt's tokens"""
    golds: tuple[str, ...] = ()
    is_correct: bool | None = None
    """the dataset's own judgement (`Judgement.is_correct`)"""
    has_stopped: bool | None = None
    """whether the model ended by itself; False: it was cut off at the length limit"""
    seconds: float | None = None
    """wall time of this row's answer, its share of the batch"""
    gold: GoldLikelihood | None = None
    """how likely the model finds the gold answer; measured only where a metric asks for it"""


ScoreRows = Callable[[Sequence[AnsweredRow]], list[float | None]]
"""rows -> one score for each, in order; None where a row cannot be scored"""


def by_text(score: Callable[[str, tuple[str, ...]], float]) -> ScoreRows:
    """A metric of (answer text, golds) as a metric of rows; a row without golds has no score."""
    return lambda rows: [score(row.text, row.golds) if row.golds else None for row in rows]


def by_row(score: Callable[[AnsweredRow], float | None]) -> ScoreRows:
    """A metric of one row as a metric of rows."""
    return lambda rows: [score(row) for row in rows]
