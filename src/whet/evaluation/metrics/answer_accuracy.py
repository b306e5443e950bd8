"""Answer accuracy: 1 where the dataset's own extraction and comparison say that the generated answer is right.

How an answer is taken out of a text is the task's affair (whet/data/datasets: math_answer, generated, plain_answer).
"""

from __future__ import annotations

from whet.evaluation.metrics.answered_row import AnsweredRow


def score(row: AnsweredRow) -> float | None:
    """1 or 0; None for a row that was not judged."""
    return None if row.is_correct is None else float(row.is_correct)
