"""`question` and `answer` as they are."""

from __future__ import annotations

from typing import Any

from whet.data.formats.answers import read_answer
from whet.data.reading import Format, Reading, get_text, pair


def read(row: dict[str, Any]) -> Reading:
    """One question, one answer to learn."""
    return read_answer(pair(get_text(row, "question"), get_text(row, "answer")))


FORMAT = Format(keys=("question", "answer"), sample={"question": "2+2?", "answer": "4"}, read=read)
