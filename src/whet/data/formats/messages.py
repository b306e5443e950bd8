"""Conversations as chat services take them: `messages` of {role, content}, many turns, tools kept.

Every assistant turn is taught unless it says `train: false` or `weight: 0` (OpenAI's word). `tool_calls`,
`tool_call_id` and `name` of a turn and `tools` of the row are kept as JSON for the chat template. A null there is
as good as none, because Parquet files give every turn all keys.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

from whet.data.formats.answers import read_answer
from whet.data.reading import Format, Reading, RowError, check_text, get_value, name_type, to_json_text
from whet.types import Message, Role

_KEPT_KEYS = ("tool_calls", "tool_call_id", "name")


def read(row: dict[str, Any]) -> Reading:
    """All turns; taught are the assistant's, as the turns themselves say."""
    turns = read_turns(get_value(row, "messages", "a list of {role, content}"), "messages")
    check_conversation(turns, "messages")
    return read_answer(turns, tools=read_tools(row))


def read_turns(value: Any, field: str) -> list[Message]:
    """The turns of a list of {role, content}, one by one; their order is not checked here."""
    if not isinstance(value, list):
        raise RowError("not a list of messages", field=field, found=name_type(value),
                       expected="a list of {role, content}")  # fmt: skip
    if not value:
        raise RowError("empty list of messages", field=field, found="[]",
                       expected="at least one user and one assistant turn")  # fmt: skip
    return [_read_turn(turn, f"{field}[{index}]") for index, turn in enumerate(value)]


def _read_turn(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise RowError("not a message", field=place, found=name_type(turn), expected="{role, content}")
    role: Role | None = turn.get("role")
    if role is None or role not in get_args(Role):
        raise RowError("wrong role", field=f"{place}.role", found=repr(role)[:40],
                       expected=f"one of {', '.join(get_args(Role))}")  # fmt: skip
    if turn.get("function_call"):
        raise RowError("old form of a tool call", field=f"{place}.function_call", found="a call", expected="tool_calls")
    calls = _read_calls(turn.get("tool_calls"), role, f"{place}.tool_calls")
    content = get_value(turn, "content", "text", place=f"{place}.") if not calls else turn.get("content")
    if content is None and calls:
        content = ""
    # an empty system message is a common way to ask for none, and a tool may answer nothing
    content = check_text(content, f"{place}.content", may_be_empty=role in ("system", "tool") or bool(calls))
    kept = {key: turn[key] for key in _KEPT_KEYS if turn.get(key)}
    extra = to_json_text(kept, place) if kept else ""
    return Message(role=role, content=content, is_taught=_is_taught(turn, role, place), extra=extra)


def _is_taught(turn: dict[str, Any], role: Role, place: str) -> bool:
    wishes = {key: turn[key] for key in ("train", "weight") if turn.get(key) is not None}
    for key, value in wishes.items():
        # 0 == False and 1 == True for Python, so the types are compared as well
        if type(value) is not (bool if key == "train" else int) or value not in (0, 1):
            raise RowError(f"wrong {key}", field=f"{place}.{key}", found=repr(value)[:40],
                           expected="true or false" if key == "train" else "0 or 1")  # fmt: skip
        if value and role != "assistant":
            raise RowError("only answers can be taught", field=f"{place}.{key}", found=f"{value!r} on a {role} turn",
                           expected=f"{key} on assistant turns only")  # fmt: skip
    if len({bool(value) for value in wishes.values()}) > 1:
        raise RowError("train and weight disagree", field=f"{place}.train", found=json.dumps(wishes), expected="one")
    return role == "assistant" and all(wishes.values())


def _read_calls(value: Any, role: Role, field: str) -> list[Any]:
    if not value:
        return []
    if not isinstance(value, list):
        raise RowError("not a list of calls", field=field, found=name_type(value), expected="a list of calls")
    if role != "assistant":
        raise RowError("tool calls of another role", field=field, found=f"a {role} turn", expected="an assistant turn")
    for index, call in enumerate(value):
        function = call.get("function") or call if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name:
            raise RowError("call without a name", field=f"{field}[{index}].function.name",
                           found=name_type(name if isinstance(function, dict) else call),
                           expected="the tool's name")  # fmt: skip
    return value


def check_conversation(turns: Sequence[Message], field: str) -> None:
    """RowError unless the turns are [system], user, ..., assistant, with something taught."""
    roles = [turn.role for turn in turns]
    order = f"roles {', '.join(roles[:12])}"
    if "assistant" not in roles:
        raise RowError("no assistant turn", field=field, found=order, expected="an answer to learn")
    if roles.count("system") > 1:
        raise RowError("two system turns", field=field, found=f"{roles.count('system')}", expected="at most one")
    if "system" in roles[1:]:
        raise RowError("system turn is not first", field=field, found=order, expected="system, user, assistant, ...")
    if "user" not in roles[: roles.index("assistant")]:
        raise RowError("no user turn before the answer", field=field, found=order, expected="user before assistant")
    for before, role in pairwise(roles):
        if role == "tool" and before not in ("assistant", "tool"):
            raise RowError("tool turn without a call", field=field, found=order, expected="an assistant turn before it")
    if roles[-1] != "assistant":
        raise RowError("last turn is not the assistant's", field=field, found=roles[-1], expected="assistant")
    if not any(turn.is_taught for turn in turns):
        raise RowError("nothing is taught", field=field, found="train: false or weight: 0 on every answer",
                       expected="at least one answer to learn")  # fmt: skip


def read_tools(row: dict[str, Any]) -> str:
    """The row's `tools` as JSON text, "" if there are none; they may be given as JSON text already."""
    tools = row.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise RowError("not JSON", field="tools", found=repr(tools[:40]), expected="a list of tools") from error
    if not tools:
        return ""
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("not a list of tools", field="tools", found=name_type(tools), expected="a list of objects")
    return to_json_text(tools, "tools")


def untaught(turns: Sequence[Message]) -> list[Message]:
    """The turns as context only."""
    return [replace(turn, is_taught=False) for turn in turns]


FORMAT = Format(
    keys=("messages",),
    optional_keys=("tools",),
    sample={"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]},
    read=read,
)
