"""How the answers of some rows look: numbers, one of a few choices, short texts, long ones, or formulas.

Decides how answers are judged: a sentence is never equal to another one word for word, a number is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from whet.data.datasets import math_answer
from whet.recipe.draft import AnswerKind
from whet.types import Example

_MOST = 0.95
_SHORT_CHARACTERS = 60
_SHORT_WORDS = 8
_MOST_CHOICES = 20
_ROWS_PER_CHOICE = 4
_FORMULA = re.compile(r"\\boxed\b|\\frac\b|\\sqrt\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What is known of the answers of some rows."""

    kind: AnswerKind
    choices: tuple[str, ...]
    """of kind `choice`: all of them, the most frequent first"""
    has_solutions: bool
    """of kind `number`: whether the number stands at the end of a solution, not alone"""


def look_at_answers(examples: Sequence[Example]) -> Answers:
    """The kind that at least 95 % of the answers have, from the narrowest to `long`."""
    texts = [example.messages[-1].content.strip() for example in examples]
    counts = Counter(texts)
    are_short = _most(len(text) <= _SHORT_CHARACTERS and len(text.split()) <= _SHORT_WORDS for text in texts)
    solved = _most(example.task == "math_answer" for example in examples)
    if solved or _most(bool(math_answer.bare_number(text)) for text in texts):
        return Answers(kind="number", choices=(), has_solutions=solved)
    if _most(_FORMULA.search(text) is not None for text in texts):
        return Answers(kind="formula", choices=(), has_solutions=False)
    if are_short and len(counts) <= _MOST_CHOICES and len(texts) >= _ROWS_PER_CHOICE * len(counts):
        choices = tuple(text for text, _ in counts.most_common())
        return Answers(kind="choice", choices=choices, has_solutions=False)
    return Answers(kind="short" if are_short else "long", choices=(), has_solutions=False)


def _most(holds: Iterable[bool]) -> bool:
    found = list(holds)
    return bool(found) and sum(found) >= _MOST * len(found)
