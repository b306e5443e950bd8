"""Plain `text` without a question: every token of it is taught, nothing is scored."""

from __future__ import annotations

from typing import Any

from whet.data.reading import Format, Reading, get_text
from whet.types import Message


def read(row: dict[str, Any]) -> Reading:
    """One taught message."""
    message = Message(role="assistant", content=get_text(row, "text"), is_taught=True)
    return Reading(messages=[message], task="plain_answer", golds=())


FORMAT = Format(keys=("text",), sample={"text": "Once upon a time ..."}, read=read)
