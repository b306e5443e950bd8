"""The second of `whet init`'s questions, which model: known, Llama-shaped, small enough for this machine."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whet.errors import RecipeError

if TYPE_CHECKING:
    from whet.cli.this_machine import Machine

BUILT_IN = "smollm2-135m-instruct"
_BYTES_PER_WEIGHT = 2
_WORKING_BYTES = 600_000_000
"""beside the weights: Python, torch, the adapter and one short pass"""
_CHAT_WORDS = ("instruct", "chat", "nemotron", "-it")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a model before it is fetched."""

    id: str
    num_parameters: int | None
    max_positions: int | None
    has_chat_template: bool
    note: str = ""


def check_model(model_id: str, machine: Machine) -> ModelFacts:
    """The model, if it can be known and fits; RecipeError says what would do instead."""
    from whet.models.families import KNOWN, find_shape, num_parameters

    folder = Path(model_id).expanduser()
    shape = find_shape(str(folder) if folder.is_dir() else model_id)
    if shape is None and folder.is_dir():
        raise RecipeError("is no model folder: it has no config.json", where=model_id, mend="name the folder in which "
                          "config.json, tokenizer.json and *.safetensors lie")  # fmt: skip
    if shape is None and not _is_hub_id(model_id):
        near = difflib.get_close_matches(model_id.lower(), KNOWN, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise RecipeError(
            f"there is no model {model_id!r}",
            mend=f"{hint}Built in: {BUILT_IN}. On the hub: OWNER/NAME. A folder: ./NAME",
        )
    if shape is None:
        note = f"{model_id}: size and template are not known before it is fetched"
        return ModelFacts(id=model_id, num_parameters=None, max_positions=None,
                          has_chat_template=_sounds_like_chat(model_id), note=note)  # fmt: skip
    num = num_parameters(shape)
    _refuse_too_large(model_id, num, machine)
    has_template = _has_template(folder) if folder.is_dir() else _sounds_like_chat(model_id)
    note = (
        "" if has_template else f"{model_id} has no chat template: questions are asked as `Question: ... Answer: ...`"
    )
    return ModelFacts(
        id=model_id, num_parameters=num, max_positions=shape.max_positions, has_chat_template=has_template, note=note
    )


def _is_hub_id(model_id: str) -> bool:
    owner, slash, name = model_id.partition("/")
    return bool(owner and slash and name and "/" not in name) and not model_id.startswith((".", "~"))


def _sounds_like_chat(model_id: str) -> bool:
    return any(word in model_id.lower() for word in _CHAT_WORDS)


def _has_template(folder: Path) -> bool:
    """Whether the tokenizer of a model folder brings a chat template, in one of the two places for it."""
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


def _refuse_too_large(model_id: str, num_parameters: int, machine: Machine) -> None:
    needed = num_parameters * _BYTES_PER_WEIGHT + _WORKING_BYTES
    if machine.usable_bytes is not None and needed > machine.usable_bytes:
        raise RecipeError(
            f"{model_id} has {num_parameters / 1e9:.2g} billion weights and needs at least {needed / 1e9:.1f} GB, "
            f"here are {machine.usable_bytes / 1e9:.1f} GB ({machine.sentence()})",
            mend=f"take a smaller model ({BUILT_IN} needs about 1 GB), or write the recipe on the machine that trains",
        )
