"""Seconds per example: wall time of one answer, its share of the batch that it was generated in.

Compare two models only where machine, batch size and load were the same. Rows that were answered together share their
time equally, so they are not measurements of their own, and no verdict rests on them.
"""

from __future__ import annotations

from whet.evaluation.metrics.answered_row import AnsweredRow


def score(row: AnsweredRow) -> float | None:
    """Seconds; None where they were not recorded."""
    return row.seconds
