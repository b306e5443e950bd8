"""Rendered conversations -> token ids with taught marks.

Where joining would merge tokens across the border before an answer (`"Answer: " + "42"`), the ids are split there, as
generation splits them. Control tokens that a message contains are spelled out, never one token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whet.data.templates.draft import Conversation
from whet.data.templates.render import render, render_conversations
from whet.data.templates.template import Rendered, Template
from whet.errors import DataError
from whet.types import Example, Message


def prompts(template: Template, examples: Sequence[Example]) -> list[list[int]]:
    """Ids that generation is prompted with, per example: exactly the training ids before its last answer.

    Raises DataError of the first row that the template refuses.
    """
    rendered = render_conversations(
        template,
        [Conversation(messages=e.messages[:-1], tools=e.tools, origin=e.origin, has_answer=False) for e in examples],
    )
    for result in rendered:
        if isinstance(result, DataError):
            raise result
    good = [result for result in rendered if isinstance(result, Rendered)]
    return [finish_prompt(template, pieces) for pieces in encode(template, good)]


def prompt_ids(
    template: Template, messages: Sequence[Message], *, origin: str = "conversation", tools: str = ""
) -> list[int]:
    """Ids of a conversation that waits for the next answer."""
    rendered = render(template, messages, origin=origin, has_answer=False, tools=tools)
    return finish_prompt(template, encode(template, [rendered])[0])


def finish_prompt(template: Template, pieces: Sequence[Sequence[int]]) -> list[int]:
    """Encoded texts of a prompt -> its ids."""
    head = template.head_ids if template.kind == "plain" else ()
    return [*head, *pieces[-1]]


def encode(template: Template, conversations: Sequence[Rendered]) -> list[list[list[int]]]:
    """Ids of every text of every conversation, each beginning with the ids of the one before it."""
    ordinary = [text for rendered in conversations if not rendered.stand_ins for text in rendered.texts]
    encoded = iter(_encode_batch(template, ordinary))
    result = []
    for rendered in conversations:
        pieces: list[list[int]] = []
        for index, text in enumerate(rendered.texts):
            ids = _encode_with_control_text(template, text, rendered) if rendered.stand_ins else next(encoded)
            if pieces and ids[: len(pieces[-1])] != pieces[-1]:
                rest = text[len(rendered.texts[index - 1]) :]
                split = _encode_with_control_text(template, rest, rendered) if rendered.stand_ins else (
                    _encode_batch(template, [rest])[0]
                )  # fmt: skip
                ids = pieces[-1] + split
            pieces.append(ids)
        result.append(pieces)
    return result


def _encode_batch(template: Template, texts: list[str]) -> list[list[int]]:
    """Ids of each text. Where the tokenizer allows it, a stretch between two control tokens that stands in many texts
    (every text of a conversation begins with the one before it) is encoded once."""
    if not template.splits_at_controls:
        return _encode_whole(template, texts)
    split = [template.control_tokens.split(text) for text in texts]
    stretches = list(dict.fromkeys(part for parts in split for part in parts[::2]))
    ids = dict(zip(stretches, _encode_whole(template, stretches), strict=True))
    controls = {part for parts in split for part in parts[1::2]}
    ids |= {control: [template.tokenizer.convert_tokens_to_ids(control)] for control in controls}
    return [[token for part in parts for token in ids[part]] for parts in split]


def _encode_whole(template: Template, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    batch = template.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = batch["input_ids"]
    return ids


def _encode_with_control_text(template: Template, text: str, rendered: Rendered) -> list[int]:
    """Ids of a text in which control tokens of the template are tokens and those of the messages are spelled out.

    The text between two control tokens is encoded in one go, as the tokenizer itself does it. That this is so for
    this tokenizer is checked on the same text without the messages' control tokens.
    """
    harmless = text.translate(dict.fromkeys(map(ord, rendered.stand_ins), "x"))
    ids = _encode_between_controls(template, text, rendered.stand_ins)
    if _encode_between_controls(template, harmless, {}) != _encode_whole(template, [harmless])[0] or ids is None:
        raise DataError(
            f"contains {', '.join(rendered.stand_ins.values())}, which this tokenizer cannot spell out as text",
            where=rendered.origin,
            mend="remove the control token from the row",
        )
    return ids


def _encode_between_controls(template: Template, text: str, stand_ins: dict[str, str]) -> list[int] | None:
    ids: list[int] = []
    for index, part in enumerate(template.control_tokens.split(text)):
        if index % 2:
            ids.append(template.tokenizer.convert_tokens_to_ids(part))
        elif part:
            spelled = part.translate({ord(character): token for character, token in stand_ins.items()})
            part_ids = template.tokenizer(spelled, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            if not template.control_ids.isdisjoint(part_ids):
                return None
            ids += part_ids
    return ids


def assemble(template: Template, rendered: Rendered, pieces: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Training ids (int32) and taught marks (bool) of one encoded conversation.

    Taught is each taught answer up to and including the token that ends its turn, not what the template puts
    behind that (a line break in ChatML).
    """
    if template.kind == "plain":
        start = len(template.head_ids) + len(pieces[0])
        ids = np.array([*template.head_ids, *pieces[1], template.tokenizer.eos_token_id], dtype=np.int32)
        return ids, np.arange(len(ids)) >= start
    ids = np.array(pieces[-1], dtype=np.int32)
    taught = np.zeros(len(ids), dtype=bool)
    for is_taught, before, after in zip(rendered.taught, pieces, pieces[1:], strict=False):
        start = len(before)
        end = next((i for i in range(start, len(after)) if after[i] in template.end_ids), None)
        if end is None:
            raise DataError(
                "the chat template does not end the assistant's turn with a token that generation stops at",
                where=rendered.origin,
                mend="check the model's end tokens (generation_config.eos_token_id), or use `data.template: plain`",
            )
        taught[start : end + 1] = is_taught
    return ids, taught
