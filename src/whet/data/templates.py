"""Messages -> token ids with taught marks: the one renderer for training, evaluation and chat.

`chat` uses the tokenizer's own chat template, `plain` puts prompt and answer one behind the other. Where an answer
begins is never searched for in text: the conversation is rendered up to each answer with the generation prompt,
and the longer rendering must begin with the shorter one, as text and as ids. Where joining would merge tokens
across that border (`"Answer: " + "42"`), the ids are split there, as generation splits them.

Control tokens written in a message stay text: `<|im_end|>` in a question is spelled out, never the control token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jinja2
import numpy as np

from whet.errors import DataError, RecipeError
from whet.types import Example, Message, Segment, TemplateKind

# Templates of the Llama 3.1 kind print today's date unless told one: training and evaluation on two days would
# see different prompts. This is their own default.
_TEMPLATE_DATE = "26 Jul 2024"

_PRIVATE_PLANES = (0xF0000, 0x100000)
"""Private-use characters that stand in for control tokens written in messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One conversation as text, cut before each answer. Invariant: every text begins with the one before it."""

    texts: tuple[str, ...]
    """text before each answer; for training the whole text last"""
    taught: tuple[bool, ...]
    """per answer: whether the loss covers it"""
    stand_ins: dict[str, str]
    """private-use character -> the control token's text that a message contains; empty for nearly all rows"""
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A tokenizer with its way of rendering. Build with `build_template`."""

    tokenizer: Any
    kind: TemplateKind
    end_ids: frozenset[int]
    """tokens that end a turn"""
    control_tokens: re.Pattern[str]
    control_ids: frozenset[int]
    head_ids: tuple[int, ...]
    """what the tokenizer puts in front of plain text: the beginning-of-sequence token, or nothing"""


def build_template(tokenizer: Any, kind: TemplateKind, end_ids: Sequence[int]) -> Template:
    """Raises RecipeError if the tokenizer has no chat template (chat) or no end token (plain)."""
    if kind == "chat" and not tokenizer.chat_template:
        raise RecipeError("the tokenizer has no chat template", mend="set `data.template: plain`, or use a chat model")
    if kind == "plain" and tokenizer.eos_token_id not in end_ids:
        raise RecipeError(
            f"the end token {tokenizer.eos_token!r} is not one that generation stops at",
            mend="use `data.template: chat`, or a tokenizer whose eos_token ends an answer",
        )
    added = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    added |= {token_id: tokenizer.convert_ids_to_tokens(token_id) for token_id in end_ids}
    by_length = sorted(added.values(), key=len, reverse=True)
    return Template(
        tokenizer=tokenizer,
        kind=kind,
        end_ids=frozenset(end_ids),
        control_tokens=re.compile("(" + "|".join(map(re.escape, by_length)) + ")" if by_length else r"(?!)"),
        control_ids=frozenset(added),
        head_ids=_find_head_ids(tokenizer),
    )


def _find_head_ids(tokenizer: Any) -> tuple[int, ...]:
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    return tuple(full[:start])


def render_prompt(
    tokenizer: Any, example: Example, kind: TemplateKind, *, end_ids: Sequence[int] | None = None
) -> list[int]:
    """Ids that generation is prompted with: exactly the training ids before the example's last answer."""
    ends = [tokenizer.eos_token_id] if end_ids is None else end_ids
    template = build_template(tokenizer, kind, ends)
    return prompt_ids(template, example.messages[:-1], origin=example.origin)


def prompt_ids(template: Template, messages: Sequence[Message], *, origin: str = "conversation") -> list[int]:
    """Ids of a conversation that waits for the next answer."""
    return finish_prompt(template, encode(template, [render(template, messages, origin=origin, has_answer=False)])[0])


def finish_prompt(template: Template, pieces: Sequence[Sequence[int]]) -> list[int]:
    """Encoded texts of a prompt -> its ids."""
    head = template.head_ids if template.kind == "plain" else ()
    return [*head, *pieces[-1]]


def render(template: Template, messages: Sequence[Message], *, origin: str, has_answer: bool = True) -> Rendered:
    """The conversation as text, cut before each answer; without `has_answer` a last cut where it waits for one.

    Raises DataError if the template refuses the conversation or writes its beginning differently later on.
    """
    stand_ins = _choose_stand_ins(template, messages)
    turns = [(turn, _stand_in(turn.content, stand_ins)) for turn in messages]
    write = _write_chat if template.kind == "chat" else _write_plain
    texts = write(template, turns, origin, has_answer)
    for shorter, longer in pairwise(texts):
        if not longer.startswith(shorter):
            raise DataError(
                "the chat template writes earlier turns differently when later ones follow",
                where=origin,
                mend="split the conversation into rows with one answer each, or use `data.template: plain`",
            )
    answers = [(turn, content) for turn, content in turns if turn.role == "assistant"]
    for (_, content), shorter, longer in zip(answers, texts, texts[1:], strict=False):
        if content.strip() not in longer[len(shorter) :]:
            raise DataError(
                "the chat template changes the text of an answer",
                where=origin,
                mend="write the answer as the template would, or use `data.template: plain`",
            )
    taught = tuple(turn.is_taught for turn, _ in answers)
    return Rendered(texts=tuple(texts), taught=taught, stand_ins=stand_ins, origin=origin)


def _choose_stand_ins(template: Template, messages: Sequence[Message]) -> dict[str, str]:
    written = {token for turn in messages for token in template.control_tokens.findall(turn.content)}
    if not written:
        return {}
    taken = {character for turn in messages for character in turn.content}
    free = (chr(plane + i) for plane in _PRIVATE_PLANES for i in range(0xFFFE) if chr(plane + i) not in taken)
    return {next(free): token for token in sorted(written, key=len, reverse=True)}


def _stand_in(content: str, stand_ins: dict[str, str]) -> str:
    for character, token in stand_ins.items():
        content = content.replace(token, character)
    return content


def _write_chat(template: Template, turns: Sequence[tuple[Message, str]], origin: str, has_answer: bool) -> list[str]:
    messages = [{"role": turn.role, "content": content} for turn, content in turns]
    answers = [index for index, (turn, _) in enumerate(turns) if turn.role == "assistant"]
    ends = [*answers, len(turns)]
    return [_apply(template, messages[:end], origin, end < len(turns) or not has_answer) for end in ends]


def _apply(template: Template, messages: list[dict[str, str]], origin: str, is_prompt: bool) -> str:
    try:
        return template.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=is_prompt, date_string=_TEMPLATE_DATE
        )
    except jinja2.TemplateError as error:
        raise DataError(
            f"the chat template refuses this conversation: {error}",
            where=origin,
            mend="change the order or the roles of its turns, or use `data.template: plain`",
        ) from error


def _write_plain(template: Template, turns: Sequence[tuple[Message, str]], origin: str, has_answer: bool) -> list[str]:
    """Prompt and answer as they are. Spaces that end the prompt move to the answer (`"A: " + "4"` would give the
    prompt a token that no running text has), and a line break separates the two where nothing else does."""
    prompt = "\n\n".join(content for turn, content in turns if turn.role != "assistant")
    bare_prompt = prompt.rstrip(" \t")
    answers = [content for turn, content in turns if turn.role == "assistant"]
    if len(answers) != has_answer or (answers and turns[-1][0].role != "assistant"):
        raise DataError(
            f"the plain template takes one prompt and one answer, this row has {len(turns)} turns",
            where=origin,
            mend="use `data.template: chat`",
        )
    if not answers:
        return [bare_prompt]
    gap = prompt[len(bare_prompt) :]
    if not gap and not prompt.endswith("\n") and not answers[0][:1].isspace():
        gap = "\n"
    return [bare_prompt, bare_prompt + gap + answers[0]]


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
    if not texts:
        return []
    batch = template.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return batch["input_ids"]


def _encode_with_control_text(template: Template, text: str, rendered: Rendered) -> list[int]:
    """Ids of a text in which control tokens of the template are tokens and those of the messages are spelled out.

    The text between two control tokens is encoded in one go, as the tokenizer itself does it. That this is so for
    this tokenizer is checked on the same text without the messages' control tokens.
    """
    harmless = text.translate(dict.fromkeys(map(ord, rendered.stand_ins), "x"))
    ids = _encode_between_controls(template, text, rendered.stand_ins)
    if _encode_between_controls(template, harmless, {}) != _encode_batch(template, [harmless])[0] or ids is None:
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


def to_segments(tokenizer: Any, ids: np.ndarray, taught: np.ndarray) -> tuple[Segment, ...]:
    """The sample as stretches of text, each taught as a whole or not at all, for people to look at."""
    borders = [0, *(np.flatnonzero(np.diff(taught)) + 1).tolist(), len(ids)]
    return tuple(
        Segment(text=tokenizer.decode(ids[start:end].tolist()), is_taught=bool(taught[start]))
        for start, end in pairwise(borders)
    )
