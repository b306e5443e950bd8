"""Answers that are compared as text: the whole answer, or what stands behind `Answer:` where a text has that."""

from __future__ import annotations

import re
import unicodedata

from whet.data.datasets import answer_line

_NEXT_QUESTION = re.compile(r"(?<=\S)\s{0,20}\n[ \t]{0,4}question[ \t]?\d{0,4}:", re.IGNORECASE)


def extract(text: str) -> tuple[str, bool]:
    """The answer and whether it has the asked-for format: no format is asked for, so any visible text has it.

    A `Question:` that a model makes up behind its answer ends the answer: the `Answer:` that follows it is another's.
    """
    text = text[: answer_line.MAX_CHARACTERS]
    following = _NEXT_QUESTION.search(text)
    text = text[: following.start()] if following else text
    answer = answer_line.find_answer(text)
    if answer is None:
        answer = text.strip()
    return answer, bool(answer)


def is_correct(extracted: str, golds: tuple[str, ...], *, origin: str = "") -> bool:
    """Whether the texts are equal but for white space and Unicode composition."""
    return any(_fold(extracted) == _fold(gold) for gold in golds)


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
