"""Chat templates of model families, for tokenizers that bring none. One `NAME.jinja` beside this file for each.

`llama-3`, `llama-3.1` and `smollm2` are tested against their makers' own renderers. `nemotron-nano` is not verified:
no source of its template was at hand, only its description (Llama 3's turns, reasoning switched in the system turn).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import RecipeError

_LLAMA_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

REASONING_SWITCH = "detailed thinking"
"""Nemotron-Nano's switch: `detailed thinking on` or `detailed thinking off` in the system message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a family's template needs of a tokenizer."""

    control_tokens: tuple[str, ...]
    end_of_turn: str


FAMILIES = {
    "llama-3": Family(control_tokens=_LLAMA_TOKENS, end_of_turn="<|eot_id|>"),
    "llama-3.1": Family(control_tokens=_LLAMA_TOKENS, end_of_turn="<|eot_id|>"),
    "nemotron-nano": Family(control_tokens=_LLAMA_TOKENS, end_of_turn="<|eot_id|>"),
    "smollm2": Family(control_tokens=("<|im_start|>", "<|im_end|>"), end_of_turn="<|im_end|>"),
}


def family_text(name: str) -> str:
    """The chat template of a family, as a tokenizer would carry it."""
    return Path(__file__).with_name(f"{name}.jinja").read_text(encoding="utf-8")


def check_family(name: str, tokenizer: Any) -> None:
    """Raises RecipeError if the tokenizer does not know the family's control tokens."""
    vocabulary = tokenizer.get_added_vocab()
    missing = [token for token in FAMILIES[name].control_tokens if token not in vocabulary]
    if missing:
        raise RecipeError(
            f"`data.chat_template: {name}` writes {', '.join(missing)}, which this tokenizer has no token for",
            mend="name the family of this model, or use `data.template: plain`",
        )


def has_reasoning_switch(chat_template: str, text: str, tokenizer: Any) -> bool:
    """Whether the template is of Nemotron's kind: the family by name, a template that mentions the switch, or a
    tokenizer whose name or folder says Llama-3.x-Nemotron (later Nemotrons switch otherwise)."""
    name = str(tokenizer.name_or_path).lower().replace("_", "-")
    return (
        chat_template == "nemotron-nano"
        or REASONING_SWITCH in text
        or re.search(r"llama-3[^/]*nemotron", name) is not None
    )
