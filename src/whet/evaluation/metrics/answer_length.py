"""Answer length: words of the answer, split at white space. Neither long nor short is better; a jump wants a look."""

from __future__ import annotations

from whet.evaluation.metrics.answered_row import AnsweredRow


def score(row: AnsweredRow) -> float:
    """Number of words."""
    return float(len(row.text.split()))
