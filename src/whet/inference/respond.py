"""Any model by name or folder, with the template that it was trained with: user prompts -> answers.

A run brings its recipe, so its prompts are rendered as in training and evaluation. A folder without one (an export,
another tool's adapter) uses its tokenizer's chat template, or none where there is none; a recipe can be given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from whet.checkpoint.names import is_sharded
from whet.data.templates import Template, build_template, end_ids_for, prompt_ids, template_for
from whet.errors import RecipeError, StorageError
from whet.inference.decoding import Decoding
from whet.inference.engine import Completion, generate
from whet.inference.text import answer_decoder
from whet.inference.tuned import final_weights, load_tuned
from whet.kernels import attention
from whet.models.adapter_source import read_adapter_folder
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from whet.models.folder import read_json
from whet.models.load import LoadedModel, load_pretrained
from whet.parallel.env import choose_device, read_env
from whet.recipe import load_recipe
from whet.recipe.schema import Model, Recipe
from whet.types import Message

_RECIPE = "recipe.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Which model is to answer."""

    name: str
    """run folder, checkpoint, adapter folder, model folder, hub id or built-in name"""
    base_model: str | None = None
    """base of an adapter folder that brings no recipe"""
    recipe: Recipe | None = None
    """whose base and template apply; default the folder's own"""
    uses_base: bool = False
    """ask the base of a run or adapter instead"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Responder:
    """A model in memory with its way of being asked."""

    loaded: LoadedModel
    template: Template
    system: str | None
    """system message that every training row had; None where they had none or several"""

    @property
    def context(self) -> int:
        """Longest prompt with its answer, in tokens."""
        return int(self.loaded.model.config.max_position_embeddings)


def open_responder(request: Request) -> Responder:
    """Load what `request` names, an adapter merged into its base.

    RecipeError: not a model, or no base named; StorageError: not finished, damaged, of another base; HubError.
    """
    folder = Path(request.name).expanduser()
    recipe = request.recipe
    if recipe is None and (folder / _RECIPE).is_file():
        recipe = load_recipe(folder / _RECIPE)
    loaded = _load(request, folder, recipe)
    attention.install(loaded.model)
    template, system = way_of_asking(recipe, loaded.tokenizer, loaded.stop_ids)
    return Responder(loaded=loaded, template=template, system=system)


def way_of_asking(
    recipe: Recipe | None, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]
) -> tuple[Template, str | None]:
    """The template that prompts are written with, and the system message that every training row had (or None).

    Without a recipe the tokenizer's own chat template, and where there is none prompts as they are.
    """
    if recipe is None:
        return build_template(tokenizer, "chat" if tokenizer.chat_template else "plain", stop_ids), None
    template = template_for(tokenizer, recipe.data, end_ids_for(tokenizer, recipe.data, stop_ids))
    systems = {source.system for source in recipe.data.train}
    return template, systems.pop() if len(systems) == 1 else None


def respond(
    responder: Responder,
    texts: Sequence[str],
    decoding: Decoding,
    *,
    system: str | None = None,
    progress: Callable[[int], None] = lambda _num_done: None,
) -> list[Completion]:
    """The answer to each text, asked by itself as the user's turn; each `Completion` has its text.

    `system` takes the place of the responder's own system message; an empty one stands for none.
    """
    system = responder.system if system is None else system
    head = [Message(role="system", content=system)] if system else []
    prompts = [
        prompt_ids(responder.template, [*head, Message(role="user", content=text)], origin=f"prompt {number}")
        for number, text in enumerate(texts, start=1)
    ]
    return generate(
        responder.loaded.model,
        prompts,
        stop_ids=responder.template.end_ids,
        decoding=replace(decoding, max_total_tokens=responder.context),
        keys=_keys(texts),
        decode=answer_decoder(responder.loaded.tokenizer),
        on_finished=lambda _index, num_finished: progress(num_finished),
    )


def _keys(texts: Sequence[str]) -> list[str]:
    """A row's draws depend on its text; the same text asked twice draws twice."""
    seen: Counter[str] = Counter()
    keys = []
    for text in texts:
        keys.append(f"{seen[text]} {text}")
        seen[text] += 1
    return keys


def _load(request: Request, folder: Path, recipe: Recipe | None) -> LoadedModel:
    device = choose_device(recipe.train.device if recipe else "auto", read_env())
    has_adapter = any((folder / name).exists() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    is_run = folder.is_dir() and (folder / _RECIPE).is_file()
    if not has_adapter and request.base_model is not None:
        raise RecipeError(f"{request.name} is no adapter folder, so it has no base to name", mend="leave the base out")
    if is_run:
        final_weights(folder)
    if is_sharded(folder):
        raise StorageError(
            "holds its weights in blocks of several ranks, which nothing answers with",
            where=str(folder),
            mend="make a model of it first: whet export --to hf",
        )
    if not has_adapter and not is_run:
        if request.uses_base:
            raise RecipeError(f"{request.name} is no run or adapter folder", mend="name the base itself")
        return load_pretrained(Model(id=request.name), device=device)
    if not has_adapter and not request.uses_base:
        assert recipe is not None
        return load_pretrained(Model(id=str(folder), dtype=recipe.model.dtype), device=device)
    loaded = load_pretrained(_choose_base(request, folder, recipe), device=device)
    if not request.uses_base:
        load_tuned(loaded, folder)
    return loaded


def _choose_base(request: Request, folder: Path, recipe: Recipe | None) -> Model:
    if request.base_model is not None:
        return Model(id=request.base_model, dtype=recipe.model.dtype if recipe else "auto")
    if recipe is None:
        said = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        raise RecipeError(
            f"has no {_RECIPE}, so its base must be named; {ADAPTER_CONFIG} says {said!r}, which is not followed",
            where=str(folder),
            mend="name the base model, or a recipe that does",
        )
    model = replace(recipe.model, quantize="none")
    return read_adapter_folder(folder).pin_base(model) if (folder / ADAPTER_CONFIG).is_file() else model
