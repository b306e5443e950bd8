"""Rows of one file -> rows to train on, to choose the best weights by, and to judge by; no question is in two parts.

Rows are drawn, not cut off at the end: files are often sorted, and the verdict's interval is that of a random sample.
Which part a question goes to follows from its own hash and the seed, not from its place in the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from whet.errors import DataError

MIN_QUESTIONS = 30
_HELD_OUT = (0.25, 10, 400)
_VALIDATION = (0.10, 5, 100)
"""share of the questions, the fewest and the most of them"""
_MOST_OF_ONE_QUESTION = 0.1
"""share of the rows: a question that more of them ask is trained on"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Positions of the rows of each part, ascending. Invariant: every row in one part, every question in one part."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    held_out: tuple[int, ...]


def divide(questions: Sequence[int], *, seed: int, where: str) -> Division:
    """Draw the three parts of rows whose questions have these keys (data/row_keys.py); equal keys stay together.

    DataError where there are fewer than 30 different questions.
    """
    groups: dict[int, list[int]] = {}
    for position, key in enumerate(questions):
        groups.setdefault(key, []).append(position)
    if len(groups) < MIN_QUESTIONS:
        raise DataError(
            f"too few rows: {len(questions)} usable ones, different questions among them: {len(groups)}",
            where=where,
            mend=f"{MIN_QUESTIONS} are the fewest to train on some and judge by the others; 200 are a good beginning",
        )
    drawn = sorted(groups.values(), key=lambda rows: _lot(questions[rows[0]], seed))
    usual = [rows for rows in drawn if len(rows) <= max(1, _MOST_OF_ONE_QUESTION * len(questions))]
    num_held_out = _size(len(usual), *_HELD_OUT)
    num_kept_back = num_held_out + _size(len(usual), *_VALIDATION)
    kept_back = {rows[0] for rows in usual[:num_kept_back]}
    return Division(
        train=_sorted([rows for rows in drawn if rows[0] not in kept_back]),
        validation=_sorted(usual[num_held_out:num_kept_back]),
        held_out=_sorted(usual[:num_held_out]),
    )


def _lot(question: int, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{question}".encode()).digest()


def _size(num_questions: int, share: float, fewest: int, most: int) -> int:
    return max(fewest, min(most, round(share * num_questions)))


def _sorted(groups: Sequence[list[int]]) -> tuple[int, ...]:
    return tuple(sorted(position for group in groups for position in group))
