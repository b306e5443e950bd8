"""BLEU of one answer against all its golds, through sacrebleu (Papineni et al. 2002; Post 2018, arXiv:1804.08771).

A row's score is sentence BLEU: up to 4-grams, 13a tokens, exponential smoothing, and only the orders that the answer is
long enough for. The mean over rows is not corpus BLEU, which counts n-grams of all rows together: that one, the figure
of papers, is `score_corpus`; it has no paired rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whet.errors import RecipeError
from whet.evaluation.metrics.answered_row import AnsweredRow


def score(text: str, golds: tuple[str, ...]) -> float:
    """0 to 100, all golds as references of one answer. RecipeError where sacrebleu is not installed."""
    return float(_bleu(effective_order=True).sentence_score(text, list(golds)).score)


def score_corpus(rows: Sequence[AnsweredRow]) -> tuple[float, str]:
    """Corpus BLEU (0 to 100) over the rows that have golds, and sacrebleu's signature, which belongs beside it."""
    scored = [row for row in rows if row.golds]
    if not scored:
        return 0.0, ""
    bleu = _bleu(effective_order=False)
    most = max(len(row.golds) for row in scored)
    # sacrebleu wants references by column; None stands for a reference that a row does not have
    columns = [[row.golds[i] if i < len(row.golds) else None for row in scored] for i in range(most)]
    found = bleu.corpus_score([row.text for row in scored], columns)
    return float(found.score), str(bleu.get_signature())


def require() -> None:
    """RecipeError where sacrebleu is not installed."""
    _bleu(effective_order=True)


def _bleu(*, effective_order: bool) -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise RecipeError(
            "the metric bleu needs sacrebleu, which is not installed", mend="pip install 'whet[metrics]'"
        ) from error
    return BLEU(effective_order=effective_order)
