"""How a row without a dataset of its own is judged: by its number where it ends GSM8K's way, else by its text."""

from __future__ import annotations

from whet.data.datasets import math_answer, plain_answer
from whet.data.reading import Reading
from whet.types import Message


def read_answer(messages: list[Message], *, tools: str = "") -> Reading:
    """The reading of a conversation: task and gold come from its last turn; a turn without text is not scored."""
    answer = messages[-1].content
    task, extract = (
        ("math_answer", math_answer.extract)
        if math_answer.has_final_line(answer)
        else ("plain_answer", plain_answer.extract)
    )
    golds = (extract(answer)[0],) if answer.strip() else ()
    return Reading(messages=messages, task=task, golds=golds, tools=tools)
