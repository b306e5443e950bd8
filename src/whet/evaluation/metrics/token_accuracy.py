"""Token accuracy: share of the gold answer's tokens that the model finds more probable than any other, teacher-forced.

Tokens are predicted from those before them (labels are shifted once), and only taught ones count: the answer with the
token that ends it. It is no accuracy of answers: each token is guessed with the true ones before it at hand, so a model
that answers hardly any problem can have most tokens right.
"""

from __future__ import annotations

from whet.evaluation.metrics.answered_row import AnsweredRow


def score(row: AnsweredRow) -> float | None:
    """0 to 1; None for a row without a gold answer that the model can read."""
    return None if row.gold is None else row.gold.num_correct / row.gold.num_tokens
