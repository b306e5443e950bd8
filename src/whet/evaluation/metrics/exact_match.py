"""Exact match: whether the answer equals one of the golds in SQuAD's normal form (arXiv:1606.05250)."""

from __future__ import annotations

from whet.evaluation.metrics.squad_text import normalize


def score(text: str, golds: tuple[str, ...]) -> float:
    """1 or 0, the best over the golds."""
    answer = normalize(text)
    return float(any(answer == normalize(gold) for gold in golds))
