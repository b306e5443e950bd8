"""Tasks: how an answer is taken out of a text and judged. One module per kind of answer, one line per task.

Each module has `extract(text) -> (extracted, has_format)` and `is_correct(extracted, golds, *, origin) -> bool`.
"""

from __future__ import annotations

from typing import Protocol

from whet.data.datasets import generated, math_answer, plain_answer
from whet.types import Example, Judgement


class Task(Protocol):
    """What a task module offers."""

    def extract(self, text: str) -> tuple[str, bool]:
        """The answer a text gives, and whether it stands in the asked-for format."""

    def is_correct(self, extracted: str, golds: tuple[str, ...], *, origin: str = "") -> bool:
        """Whether the extracted answer is one of the golds; `origin` is the example's, for generated problems."""


TASKS: dict[str, Task] = {
    "plain_answer": plain_answer,
    "math_answer": math_answer,
    "generated": generated,
}


def judge(example: Example, text: str) -> Judgement:
    """Score one generated text for one example."""
    task = TASKS[example.task]
    extracted, has_format = task.extract(text)
    return Judgement(
        example_id=example.id,
        extracted=extracted,
        golds=example.golds,
        is_correct=task.is_correct(extracted, example.golds, origin=example.origin),
        has_format=has_format,
    )
