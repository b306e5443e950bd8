"""Stop rate: 1 where the model ended its answer by itself, 0 where it was cut off at the length limit."""

from __future__ import annotations

from whet.evaluation.metrics.answered_row import AnsweredRow


def score(row: AnsweredRow) -> float | None:
    """1 or 0; None where it was not recorded."""
    return None if row.has_stopped is None else float(row.has_stopped)
