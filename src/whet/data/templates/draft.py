"""A conversation made ready for the template: the reasoning switch added, control tokens in its text replaced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from whet.data.templates.families import REASONING_SWITCH
from whet.data.templates.template import Template
from whet.data.templates.tools import with_arguments_as_objects
from whet.errors import DataError
from whet.types import Message

_PRIVATE_PLANES = (0xF0000, 0x100000)
"""Private-use characters that stand in for control tokens written in messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What is rendered: the messages of an example, or of a chat."""

    messages: tuple[Message, ...]
    tools: str = ""
    """JSON list, as `Example.tools`"""
    origin: str = "conversation"
    has_answer: bool = True
    """False: the text is to end where the next answer begins"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A conversation as plain values. Invariant: no string in it contains a control token."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    taught: tuple[bool, ...]
    """per answer"""
    num_characters: int
    """of all its texts"""
    stand_ins: dict[str, str]
    """private-use character -> the control token's text"""
    origin: str
    has_answer: bool

    @property
    def answers(self) -> list[int]:
        """Positions of the assistant's messages."""
        return [index for index, message in enumerate(self.messages) if message["role"] == "assistant"]

    @property
    def has_calls(self) -> bool:
        return any(message.get("tool_calls") for message in self.messages)


def make_draft(template: Template, conversation: Conversation) -> Draft:
    """Raises DataError where the row contradicts the recipe's reasoning switch, or is text without a prompt."""
    turns = _switch_reasoning(template, conversation)
    if template.kind == "chat" and [turn.role for turn in turns if turn.role != "system"] == ["assistant"]:
        raise DataError(
            "this row is text without a prompt, and a chat template writes turns",
            where=conversation.origin,
            mend="use `data.template: plain`",
        )
    messages = with_arguments_as_objects(
        [
            {**(json.loads(turn.extra) if turn.extra else {}), "role": turn.role, "content": turn.content}
            for turn in turns
        ]
    )
    listed = json.loads(conversation.tools) if conversation.tools else None
    texts = [turn.content for turn in turns]
    if listed or any(turn.extra for turn in turns):
        texts = list(_strings([messages, listed]))
    stand_ins = _choose_stand_ins(template, texts)
    if stand_ins:
        messages, listed = _stand_in(messages, stand_ins), _stand_in(listed, stand_ins)
    return Draft(
        messages=messages,
        tools=listed,
        taught=tuple(turn.is_taught for turn in turns if turn.role == "assistant"),
        num_characters=sum(map(len, texts)),
        stand_ins=stand_ins,
        origin=conversation.origin,
        has_answer=conversation.has_answer,
    )


def _switch_reasoning(template: Template, conversation: Conversation) -> tuple[Message, ...]:
    """The turns with the switch as the first line of the system message."""
    turns = conversation.messages
    if template.reasoning is None:
        return turns
    switch = f"{REASONING_SWITCH} {template.reasoning}"
    if not turns or turns[0].role != "system":
        return (Message(role="system", content=switch), *turns)
    first_line = turns[0].content.strip().partition("\n")[0].rstrip(" .").lower()
    if first_line == switch:
        return turns
    if first_line.startswith(REASONING_SWITCH):
        raise DataError(
            f"the system message begins with {first_line!r}, the recipe says `data.reasoning: {template.reasoning}`",
            where=conversation.origin,
            mend="remove the line from the row, or the key from the recipe",
        )
    return (replace(turns[0], content=f"{switch}\n{turns[0].content}".rstrip("\n")), *turns[1:])


def _strings(value: Any) -> Iterator[str]:
    """Every string in a value made of lists and dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *_strings(item))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _choose_stand_ins(template: Template, texts: list[str]) -> dict[str, str]:
    written = {token for text in texts for token in template.control_tokens.findall(text)}
    if not written:
        return {}
    taken = {character for text in texts for character in text}
    free = (chr(plane + i) for plane in _PRIVATE_PLANES for i in range(0xFFFE) if chr(plane + i) not in taken)
    return {next(free): token for token in sorted(written, key=len, reverse=True)}


def _stand_in(value: Any, stand_ins: dict[str, str]) -> Any:
    """The value with every control token in its strings replaced."""
    if isinstance(value, str):
        for character, token in stand_ins.items():
            value = value.replace(token, character)
        return value
    if isinstance(value, dict):
        return {_stand_in(key, stand_ins): _stand_in(item, stand_ins) for key, item in value.items()}
    if isinstance(value, list):
        return [_stand_in(item, stand_ins) for item in value]
    return value
