"""FiQA 2018: questions about money with the answers that people gave; one is learned, all are kept for scoring."""

from __future__ import annotations

from typing import Any

from whet.data.reading import Format, Reading, get_text, get_texts, get_value, pair

HUB_ID = "explodinggradients/fiqa"
CONFIG: str | None = "main"
ROWS = {"train": 5_500, "validation": 500, "test": 648}


def read(row: dict[str, Any]) -> Reading:
    """The question and the first of its ground truths, whole; every ground truth is a gold."""
    question = get_text(row, "question")
    answers = get_texts(get_value(row, "ground_truths", "a list of texts"), "ground_truths")
    return Reading(messages=pair(question, answers[0]), task="plain_answer", golds=answers)


FORMAT = Format(
    keys=("question", "ground_truths"),
    sample={"question": "What is a bond?", "ground_truths": ["A loan that can be traded.", "A debt security."]},
    read=read,
)
