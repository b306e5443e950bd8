"""ShareGPT's `conversations` of {from, value}, with the names that people use for the speakers."""

from __future__ import annotations

from typing import Any

from whet.data.formats.answers import read_answer
from whet.data.formats.messages import check_conversation, read_tools
from whet.data.reading import Format, Reading, RowError, check_text, get_value, name_type
from whet.types import Message, Role

_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
}


def read(row: dict[str, Any]) -> Reading:
    """All turns; a `system` text beside them comes first; every turn of the model is taught."""
    value = get_value(row, "conversations", "a list of {from, value}")
    if not isinstance(value, list) or not value:
        found = "[]" if value == [] else name_type(value)
        raise RowError("not a list of turns", field="conversations", found=found, expected="a list of {from, value}")
    turns = [_read_turn(turn, f"conversations[{index}]") for index, turn in enumerate(value)]
    if row.get("system"):
        turns.insert(0, Message(role="system", content=check_text(row["system"], "system")))
    check_conversation(turns, "conversations")
    return read_answer(turns, tools=read_tools(row))


def _read_turn(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise RowError("not a turn", field=place, found=name_type(turn), expected="{from, value}")
    speaker = get_value(turn, "from", "the speaker", place=f"{place}.")
    role = _ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise RowError("unknown speaker", field=f"{place}.from", found=repr(speaker)[:40],
                       expected=f"one of {', '.join(_ROLES)}")  # fmt: skip
    value = get_value(turn, "value", "text", place=f"{place}.")
    content = check_text(value, f"{place}.value", may_be_empty=role in ("system", "tool"))
    return Message(role=role, content=content, is_taught=role == "assistant")


FORMAT = Format(
    keys=("conversations",),
    optional_keys=("system", "tools"),
    sample={"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
    read=read,
)
