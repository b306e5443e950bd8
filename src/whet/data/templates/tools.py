"""Tools in a conversation: the two forms of a call's arguments, and the check that the template leaves none out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from whet.errors import DataError
from whet.json_text import nests_deeply, read_json


def with_arguments_as_objects(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with JSON text as arguments of a call read: what most chat templates expect. Text that is no JSON,
    or that nests too deeply, stays text."""

    def read(arguments: Any) -> Any:
        if not isinstance(arguments, str):
            return arguments
        try:
            value = read_json(arguments)
        except ValueError:
            return arguments
        return arguments if nests_deeply(value) else value

    return [_with_arguments(message, read) for message in messages]


def with_arguments_as_text(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the arguments of a call as JSON text: for templates that join them to other text."""

    def write(arguments: Any) -> Any:
        return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)

    return [_with_arguments(message, write) for message in messages]


def _with_arguments(message: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return message
    changed = []
    for call in message["tool_calls"]:
        function = _function(call)
        function = {**function, "arguments": change(function["arguments"])} if "arguments" in function else function
        changed.append({**call, "function": function} if "function" in call else function)
    return {**message, "tool_calls": changed}


def shows_python(text: str, messages: list[dict[str, Any]]) -> bool:
    """Whether the text holds the arguments of a call as Python prints them, which is not JSON."""
    functions = [_function(call) for message in messages for call in message.get("tool_calls") or ()]
    printed = {str(function["arguments"]) for function in functions if isinstance(function.get("arguments"), dict)}
    said = [message["content"] for message in messages]
    return any(text.count(each) > sum(content.count(each) for content in said) for each in printed - {"{}"})


def check_names(tools: Sequence[Any] | None, messages: Sequence[dict[str, Any]], text: str, *, origin: str) -> None:
    """Raises DataError if a tool or a call of one is not in the text: the template would have left it out silently."""
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    names = [str(_function(each).get("name")) for each in (*(tools or ()), *calls)]
    for name in dict.fromkeys(names):
        num_said = sum(message["content"].count(name) for message in messages)
        if text.count(name) < num_said + names.count(name):
            raise DataError(
                f"the chat template does not write the tool {name!r} of this conversation",
                where=origin,
                mend="use a chat template that knows tools (`data.chat_template: llama-3.1`), or remove them",
            )


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    """`{"type": "function", "function": {...}}` -> its inside; a bare function stays."""
    function: dict[str, Any] = tool.get("function", tool)
    return function
