"""Loss: negative log-likelihood of the gold answer, in nats per taught token, teacher-forced.

What training minimises, on held-out rows: every token of the gold answer, the one that ends the turn included, given
the true tokens before it (evaluation/likelihood.py). The mean over rows weighs a short answer like a long one; the loss
of training weighs tokens, as `corpus_perplexity` in the summary does.
"""

from __future__ import annotations

from whet.evaluation.metrics.answered_row import AnsweredRow


def score(row: AnsweredRow) -> float | None:
    """Nats per token; None for a row without a gold answer that the model can read."""
    return None if row.gold is None else row.gold.nll / row.gold.num_tokens
