"""ROUGE-1, ROUGE-2 and ROUGE-L F between answer and gold, through rouge-score with its Porter stemmer.

Lin 2004 (ACL W04-1013): shared unigrams, bigrams, and the longest common subsequence of words, each as
F = 2 p r / (p + r). Words are runs of ASCII letters and digits in lower case, as rouge-score cuts them, so an answer in
another script scores 0. ROUGE-L is over the whole text as one sequence, as NeMo's script has it, not over sentences
(rougeLsum). Its time grows with words of the answer times words of the gold.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from whet.errors import RecipeError

Kind = Literal["rouge1", "rouge2", "rougeL"]


def score(text: str, golds: tuple[str, ...], *, kind: Kind) -> float:
    """0 to 1, the best over the golds. RecipeError where rouge-score is not installed."""
    scorer = _scorer(kind)
    return max(float(scorer.score(gold, text)[kind].fmeasure) for gold in golds)


def require() -> None:
    """RecipeError where rouge-score is not installed."""
    _scorer("rougeL")


@lru_cache
def _scorer(kind: Kind) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise RecipeError(
            "the metrics rouge1, rouge2 and rougeL need rouge-score, which is not installed",
            mend="pip install 'whet[metrics]'",
        ) from error
    return RougeScorer([kind], use_stemmer=True)
