"""Token F1: overlap of the words of answer and gold as bags, in SQuAD's normal form (arXiv:1606.05250, section 6.1).

precision = shared / words of the answer, recall = shared / words of the gold, F1 = 2 p r / (p + r); 0 where none is
shared, also where both are empty, as in NeMo's script.
"""

from __future__ import annotations

from collections import Counter

from whet.evaluation.metrics.squad_text import normalize


def score(text: str, golds: tuple[str, ...]) -> float:
    """0 to 1, the best over the golds."""
    answer = normalize(text).split()
    return max(_f1(answer, normalize(gold).split()) for gold in golds)


def _f1(answer: list[str], gold: list[str]) -> float:
    num_shared = sum((Counter(answer) & Counter(gold)).values())
    # 2 p r / (p + r) with p = shared / answer and r = shared / gold
    return 2 * num_shared / (len(answer) + len(gold)) if num_shared else 0.0
