"""Tokenizer and end tokens of a model, read from its folder without opening any weights."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from whet.errors import RecipeError, StorageError
from whet.models.folder import read_json
from whet.models.source import find_folder
from whet.recipe.schema import Model

_log = logging.getLogger(__name__)

_STEPS = ("normalizer", "pre_tokenizer", "decoder")
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|end_of_turn|>")
"""What chat templates of Llama-shaped models write after a turn, besides the tokenizer's own end token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerOnly:
    """What turns text into ids and tells where an answer ends: the same as in the LoadedModel of this folder."""

    tokenizer: PreTrainedTokenizerBase
    """Has a pad token; `chat_template` is None when the model brings none."""
    stop_ids: tuple[int, ...]
    """Every token that ends an answer, sorted."""
    folder: Path


def load_tokenizer(model: Model) -> TokenizerOnly:
    """Tokenizer and end tokens of what `model` names; of a hub model only the small files are fetched.

    RecipeError: not a model whet can use; StorageError: damaged files; HubError: not fetched or not verified.
    """
    folder = find_folder(model)
    tokenizer = read_tokenizer(folder)
    return TokenizerOnly(tokenizer=tokenizer, stop_ids=read_stop_ids(folder, tokenizer), folder=folder)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, splitting text exactly as its tokenizer.json says, with a pad token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if _loses_steps(tokenizer, folder / "tokenizer.json"):
            _log.info("%s drops steps of tokenizer.json; the file is taken as it is", type(tokenizer).__name__)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise StorageError(
            f"no usable tokenizer ({error})",
            where=str(folder),
            mend="the folder needs tokenizer.json and tokenizer_config.json of the model",
        ) from error
    if tokenizer.eos_token is None:
        raise RecipeError("the tokenizer names no end token", where=str(folder), mend="set eos_token in its config")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _loses_steps(tokenizer: PreTrainedTokenizerBase, path: Path) -> bool:
    """Model-specific classes rebuild the pipeline: GPT2Tokenizer forgets that SmolLM2 splits digits."""
    if not path.is_file() or not tokenizer.is_fast:
        return False
    from tokenizers import Tokenizer, models

    # without the vocabulary, which would take most of a second to write down and read back
    nothing = {"version": "1.0", "added_tokens": [], "model": json.loads(models.BPE().__getstate__())}
    document = json.loads(path.read_text(encoding="utf-8"))
    said = Tokenizer.from_str(json.dumps(nothing | {step: document.get(step) for step in _STEPS}))
    return any(_as_text(getattr(said, step)) != _as_text(getattr(tokenizer.backend_tokenizer, step)) for step in _STEPS)


def _as_text(step: Any) -> bytes | None:
    """One step of a tokenizer with its settings, as it is stored."""
    stored: bytes | None = None if step is None else step.__getstate__()
    return stored


def read_stop_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids that end an answer in the model of `folder`: generation_config.json speaks, config.json where there is none.

    An id that neither file states is not assumed: LlamaConfig would fill in 2, which can be any word of the vocabulary.
    """
    path = folder / "generation_config.json"
    said = read_json(path if path.is_file() else folder / "config.json")
    return stop_ids(said.get("eos_token_id"), tokenizer)


def stop_ids(generation_eos: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids that end an answer: generation_config's, the tokenizer's end token, and the template's end of turn."""
    listed = [generation_eos] if isinstance(generation_eos, int) else list(generation_eos or ())
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else "".join((template or {}).values())
    vocabulary = tokenizer.get_added_vocab()
    of_template = [vocabulary[token] for token in _END_OF_TURN if token in text and token in vocabulary]
    return tuple(sorted({*listed, tokenizer.eos_token_id, *of_template}))
