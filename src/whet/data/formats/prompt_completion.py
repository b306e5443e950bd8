"""`prompt` and `completion`: two texts, or two lists of messages of which only the completion's answers are taught."""

from __future__ import annotations

from typing import Any

from whet.data.formats.answers import read_answer
from whet.data.formats.messages import check_conversation, read_tools, read_turns, untaught
from whet.data.reading import Format, Reading, get_text, pair


def read(row: dict[str, Any]) -> Reading:
    """Raises RowError also where one of the two is a text and the other a list."""
    if not (isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list)):
        return read_answer(pair(get_text(row, "prompt"), get_text(row, "completion")))
    turns = [*untaught(read_turns(row["prompt"], "prompt")), *read_turns(row["completion"], "completion")]
    check_conversation(turns, "prompt + completion")
    return read_answer(turns, tools=read_tools(row))


FORMAT = Format(
    keys=("prompt", "completion"),
    optional_keys=("tools",),
    sample={"prompt": "2+2?", "completion": "4"},
    read=read,
)
