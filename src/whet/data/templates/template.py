"""A tokenizer with its way of rendering conversations: what a recipe's `data` section means for this model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from whet.data.templates.families import FAMILIES, check_family, family_text, has_reasoning_switch
from whet.data.templates.sandbox import ChatTemplate
from whet.errors import RecipeError
from whet.recipe.prompts import QUESTION, prompt_text
from whet.recipe.schema import Data
from whet.types import TemplateKind

TEMPLATE_DATE = "26 Jul 2024"
"""Templates of the Llama 3.1 kind print today's date unless told one: training and evaluation on two days would
see different prompts. This is their own default."""

_MAX_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A tokenizer with its way of rendering. Build with `template_for` or `build_template`."""

    tokenizer: Any
    kind: TemplateKind
    end_ids: frozenset[int]
    """tokens that end a turn"""
    control_tokens: re.Pattern[str]
    control_ids: frozenset[int]
    splits_at_controls: bool
    """the tokenizer encodes the text between two control tokens as if it stood alone"""
    head_ids: tuple[int, ...]
    """what the tokenizer puts in front of plain text: the beginning-of-sequence token, or nothing"""
    chat: ChatTemplate | None
    """None for plain"""
    chat_with_tools: ChatTemplate | None
    """some tokenizers bring a template of its own for conversations with tools; else as `chat`"""
    prompt: tuple[str, str] | None
    """plain: the text before and after every question; None: prompts are used as they are"""
    reasoning: Literal["on", "off"] | None


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


def template_for(tokenizer: Any, data: Data, end_ids: Sequence[int]) -> Template:
    """The template of a recipe for this tokenizer: the same one for training, evaluation, chat and serving.

    `end_ids` are the tokens that generation stops at. Raises RecipeError as `build_template` does.
    """
    return build_template(
        tokenizer, data.template, end_ids, chat_template=data.chat_template, prompt=data.prompt,
        reasoning=data.reasoning,
    )  # fmt: skip


def end_ids_for(tokenizer: Any, data: Data, stop_ids: Sequence[int]) -> tuple[int, ...]:
    """`stop_ids` with the end of turn of the family that the recipe names: a base model does not list it."""
    if data.template == "plain" or data.chat_template == "own":
        return tuple(stop_ids)
    check_family(data.chat_template, tokenizer)
    end_of_turn = tokenizer.convert_tokens_to_ids(FAMILIES[data.chat_template].end_of_turn)
    return tuple(sorted({*stop_ids, end_of_turn}))


def build_template(
    tokenizer: Any, kind: TemplateKind, end_ids: Sequence[int], *, chat_template: str = "own",
    prompt: str | None = None, reasoning: Literal["on", "off"] | None = None, max_seconds: float = _MAX_SECONDS,
) -> Template:  # fmt: skip
    """Raises RecipeError where the tokenizer does not fit: no chat template of its own, no token for what a family
    writes, or an end that generation does not stop at; and where `prompt` has not one `{question}`.

    `max_seconds`: wall time for rendering a request, besides 10 ms per text.
    """
    if kind == "plain" and tokenizer.eos_token_id not in end_ids:
        raise RecipeError(
            f"the end token {tokenizer.eos_token!r} is not one that generation stops at",
            mend="use `data.template: chat`, or a tokenizer whose eos_token ends an answer",
        )
    chat, chat_with_tools = (
        _find_chat(tokenizer, chat_template, end_ids, max_seconds) if kind == "chat" else (None,) * 2
    )
    if reasoning and (chat is None or not has_reasoning_switch(chat_template, chat.text, tokenizer)):
        raise RecipeError(
            f"`data.reasoning: {reasoning}` is Nemotron-Nano's switch, which this chat template does not know",
            mend="remove it, or set `data.chat_template: nemotron-nano`",
        )
    added = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    added |= {token_id: tokenizer.convert_ids_to_tokens(token_id) for token_id in end_ids}
    if chat_template in FAMILIES:
        added |= {tokenizer.convert_tokens_to_ids(token): token for token in FAMILIES[chat_template].control_tokens}
    by_length = sorted(added.values(), key=len, reverse=True)
    control_tokens = re.compile("(" + "|".join(map(re.escape, by_length)) + ")" if by_length else r"(?!)")
    return Template(
        tokenizer=tokenizer,
        kind=kind,
        end_ids=frozenset(end_ids),
        control_tokens=control_tokens,
        control_ids=frozenset(added),
        splits_at_controls=_splits_at_controls(tokenizer, control_tokens, added),
        head_ids=_find_head_ids(tokenizer),
        chat=chat,
        chat_with_tools=chat_with_tools,
        prompt=_split_prompt(prompt),
        reasoning=reasoning,
    )


def _find_chat(
    tokenizer: Any, chat_template: str, end_ids: Sequence[int], max_seconds: float
) -> tuple[ChatTemplate, ChatTemplate]:
    """The chat template for conversations without and with tools."""

    def build(name: str, text: str) -> ChatTemplate:
        variables = {**tokenizer.special_tokens_map, "date_string": TEMPLATE_DATE}
        return ChatTemplate(name=name, text=text, variables=variables, max_seconds=max_seconds)

    if chat_template != "own":
        check_family(chat_template, tokenizer)
        end_of_turn = FAMILIES[chat_template].end_of_turn
        if tokenizer.convert_tokens_to_ids(end_of_turn) not in end_ids:
            raise RecipeError(
                f"`data.chat_template: {chat_template}` ends a turn with {end_of_turn}, which generation does not "
                "stop at",
                mend="add the token to eos_token_id of the model's generation_config.json",
            )
        chat = build(f"the chat template {chat_template}", family_text(chat_template))
        return chat, chat
    if not tokenizer.chat_template:
        raise RecipeError(
            "the tokenizer has no chat template of its own",
            mend=f"name one in `data.chat_template` ({', '.join(FAMILIES)}), or set `data.template: plain`",
        )
    name = "the tokenizer's own chat template"
    return build(name, tokenizer.get_chat_template()), build(name, tokenizer.get_chat_template(tools=[{}]))


def _find_head_ids(tokenizer: Any) -> tuple[int, ...]:
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    return tuple(full[:start])


def _splits_at_controls(tokenizer: Any, control_tokens: re.Pattern[str], controls: dict[int, str]) -> bool:
    """Whether the tokenizer cuts a text at every control token before it does anything else. Not so where a token
    takes the space beside it, where a normalizer sees the whole text, or where the first word is written otherwise."""
    known = tokenizer.added_tokens_decoder
    if tokenizer.backend_tokenizer.normalizer is not None or not controls.keys() <= known.keys():
        return False
    if any(token.lstrip or token.rstrip or token.single_word for token in known.values()):
        return False
    if any(control_tokens.search(token.content) for token_id, token in known.items() if token_id not in controls):
        return False

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    probes = ("a", " a", "\n\nb 12 ")
    return all(
        encode(probe + token + probe) == [*encode(probe), token_id, *encode(probe)]
        for token_id, token in list(controls.items())[:20]
        for probe in probes
    )


def _split_prompt(prompt: str | None) -> tuple[str, str] | None:
    if prompt is None:
        return None
    before, *after = prompt_text(prompt).split(QUESTION)
    if len(after) != 1:
        raise RecipeError(f"`data.prompt` must hold {QUESTION} once, found {len(after)}", mend="write it once")
    return before, after[0]
