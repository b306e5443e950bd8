"""A model folder that a server loads as it is: weights, tokenizer, stop tokens, and the way of asking in its template.

Weights of a whole model are linked, not copied; an adapter is merged, or laid beside its base as plain LoRA.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from whet import cache
from whet.errors import RecipeError
from whet.export.adapter import refuse_what_vllm_does_not_serve, write_adapter
from whet.export.merged import write_merged
from whet.export.request import Request as Export
from whet.export.source import Source, open_source
from whet.inference.respond import way_of_asking
from whet.inference.serve_template import check_served, served_chat_template
from whet.inference.tuned import final_weights
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from whet.models.folder import read_json
from whet.models.load import choose_dtype
from whet.models.source import find_model
from whet.models.tokenizer import read_stop_ids, read_tokenizer
from whet.recipe import load_recipe
from whet.recipe.schema import Model, Recipe
from whet.types import ModelIdentity

_RECIPE = "recipe.yaml"
_GENERATION = "generation_config.json"
_SAMPLING = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
"""What a request that says nothing about sampling gets, unless the base says otherwise: OpenAI's defaults. Sampling is
on, or transformers would answer greedily whatever temperature a request names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What a server is told. Invariant: rendered by this folder, a request has the tokens that whet gives it."""

    name: str
    """what requests call it: the run's name"""
    folder: Path
    """tokenizer, chat template and generation settings; the weights too unless there is an adapter"""
    dtype: str
    """what weights are computed in: as `whet generate` does on this machine"""
    device: str
    """`cuda` or `cpu`"""
    what: str
    """for people: what became of the weights"""
    context: int | None
    """tokens that the model reads, where its configuration says so"""
    base: Path | None = None
    """folder of the base that `adapter` belongs to"""
    base_name: str | None = None
    adapter: Path | None = None
    adapter_rank: int = 0


def write_served(
    place: Path, name: str, *, base_model: str | None = None, keeps_adapter: bool, say: Callable[[str], None]
) -> ServedModel:
    """Make `place`/<name> from a run, a checkpoint, an adapter or model folder, a hub id or a built-in name.

    `keeps_adapter`: the server loads adapters; one that vLLM does not serve is merged all the same. RecipeError,
    StorageError and HubError as of `whet generate` and `whet merge`.
    """
    origin = Path(name).expanduser()
    recipe = load_recipe(origin / _RECIPE) if (origin / _RECIPE).is_file() else None
    device = _device(recipe)
    dtype = _dtype(recipe, device)
    if any((origin / each).exists() for each in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)):
        export = Export(run_folder=origin, base=base_model, dtype=dtype, say=say)  # type: ignore[arg-type]
        return _write_adapted(place, export, recipe, device, keeps_adapter=keeps_adapter)
    if base_model is not None:
        raise RecipeError(f"{name} is no adapter folder, so it has no base to name", mend="leave the base out")
    if recipe is not None:
        final_weights(origin)
    source = find_model(Model(id=str(origin) if origin.is_dir() else name))
    folder = _make_folder(place, _served_name(recipe, source.identity))
    for file in source.weight_files:
        (folder / file.name).symlink_to(file.resolve())
    for small in ("config.json", "model.safetensors.index.json"):
        if (source.folder / small).is_file():
            shutil.copyfile(source.folder / small, folder / small)
    tokenizer = read_tokenizer(source.folder)
    path = source.folder / _GENERATION
    generation = read_json(path) if path.is_file() else {}
    _write_companions(folder, tokenizer, read_stop_ids(source.folder, tokenizer), generation, recipe)
    return ServedModel(
        name=folder.relative_to(place).as_posix(), folder=folder, dtype=dtype, device=device, what="whole model",
        context=_context(read_json(source.folder / "config.json")),
    )  # fmt: skip


def _write_adapted(
    place: Path, export: Export, recipe: Recipe | None, device: str, *, keeps_adapter: bool
) -> ServedModel:
    source = open_source(export)
    assert source.update is not None
    folder = _make_folder(place, _served_name(recipe, source.identity, export.run_folder))
    name, context = folder.relative_to(place).as_posix(), _context(source.config)
    why_merged = _why_merged(source) if keeps_adapter else "this server loads no adapters"
    if why_merged is None:
        beside = place / ".adapter"
        beside.mkdir()
        config = write_adapter(beside, source, source.update, "float32")
        _write_companions(folder, source.tokenizer, source.stop_ids, source.generation, recipe)
        return ServedModel(
            name=name, folder=folder, dtype=str(export.dtype), device=device, what="base and adapter", context=context,
            base=source.base.folder, base_name=source.identity.id, adapter=beside, adapter_rank=config["r"],
        )  # fmt: skip
    size = sum(file.stat().st_size for file in source.base.weight_files)
    cache.check_free_space(place, 2 * size if export.dtype == "float32" else size)
    write_merged(folder, source, export)
    _write_companions(folder, source.tokenizer, source.stop_ids, source.generation, recipe)
    what = f"adapter merged into its base in {export.dtype}, in a folder that is removed at the end ({why_merged})"
    return ServedModel(name=name, folder=folder, dtype=str(export.dtype), device=device, what=what, context=context)


def _why_merged(source: Source) -> str | None:
    assert source.update is not None
    try:
        refuse_what_vllm_does_not_serve(source.update, str(source.folder))
    except RecipeError as error:
        return error.what
    return None


def _write_companions(
    folder: Path, tokenizer: PreTrainedTokenizerBase, stop_ids: tuple[int, ...], generation: dict[str, Any],
    recipe: Recipe | None,
) -> None:  # fmt: skip
    """Tokenizer with the served template, and generation settings with every stop token; then both are checked."""
    template, system = way_of_asking(recipe, tokenizer, stop_ids)
    tokenizer.chat_template = served_chat_template(template, system)
    tokenizer.save_pretrained(folder)
    said = {key: value for key, value in generation.items() if not key.startswith("_") and value is not None}
    settings = {**_SAMPLING, **said, "do_sample": True, "eos_token_id": sorted(template.end_ids)}
    (folder / _GENERATION).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    as_served = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    check_served(as_served, template, system)


def _context(config: dict[str, Any]) -> int | None:
    said = config.get("max_position_embeddings")
    return said if isinstance(said, int) and said > 0 else None


def _make_folder(place: Path, name: str) -> Path:
    folder = place / name
    folder.mkdir(parents=True)
    return folder


def _served_name(recipe: Recipe | None, identity: ModelIdentity, run: Path | None = None) -> str:
    """The run's name, else the folder's or the model's, without what a server reads as more than a name."""
    name = recipe.name if recipe is not None else run.resolve().name if run is not None else identity.id
    return re.sub(r"[^\w./-]|\.\.", "-", name).strip("/.") or "model"


def _device(recipe: Recipe | None) -> str:
    wants_cpu = recipe is not None and recipe.train.device == "cpu"
    return "cuda" if torch.cuda.is_available() and not wants_cpu else "cpu"


def _dtype(recipe: Recipe | None, device: str) -> str:
    chosen = choose_dtype(recipe.model.dtype if recipe is not None else "auto", torch.device(device))
    return "bfloat16" if chosen == torch.bfloat16 else "float32"
