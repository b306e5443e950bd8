"""A finished run, a checkpoint or an adapter folder, with its base: checked, identified, no weights loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from whet import cache
from whet.checkpoint.manifest import NAME as MANIFEST
from whet.checkpoint.names import SHARDS, is_sharded, weight_shards
from whet.errors import RecipeError, StorageError
from whet.export.request import Request
from whet.models.adapter_source import AdapterFolder, AdapterUpdate, check_fits, parse_adapter, read_adapter_folder
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, FULL_WEIGHTS
from whet.models.folder import read_json, refuse_own_code, weight_files
from whet.models.merge import MergedWeights
from whet.models.source import ModelSource, find_model
from whet.models.tokenizer import read_stop_ids, read_tokenizer
from whet.models.weight_files import INDEX, list_tensors
from whet.recipe import load_recipe
from whet.recipe.schema import Model, Recipe
from whet.types import ModelIdentity

_RECIPE = "recipe.yaml"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_GENERATION = "generation_config.json"
_PICKLED_ADAPTER = "adapter_model.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is exported."""

    folder: Path
    model: Model
    """names the base for `models.load.load_pretrained`"""
    base: ModelSource
    adapter: AdapterFolder | None
    """None: all weights were trained"""
    update: AdapterUpdate | None
    weights: MergedWeights
    """the tuned model's, made when they are read"""
    tokenizer: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]
    """every token that ends an answer, sorted"""
    config: dict[str, Any]
    """config.json of the merged model, without a path of this machine; `dtype` is the writer's to set"""
    generation: dict[str, Any]
    """generation_config.json with every stop id"""
    notes: tuple[str, ...]
    """sentences that a reader of the export must know"""

    @property
    def identity(self) -> ModelIdentity:
        """Of the base."""
        return self.base.identity


def open_source(request: Request) -> Source:
    """Find and check everything that an export of `request.run_folder` needs.

    RecipeError: no such folder, no base named, only pickles; StorageError: not finished, damaged, another base.
    """
    folder = request.run_folder
    if not folder.is_dir():
        raise RecipeError("no such folder", where=str(folder), mend="name a run, a checkpoint or an adapter folder")
    recipe = load_recipe(folder / _RECIPE) if (folder / _RECIPE).is_file() else None
    is_full = _is_full(folder)
    files = _own_files(folder) if is_full else (folder / ADAPTER_WEIGHTS,)
    _check_manifest(folder, (*files, folder / ("config.json" if is_full else ADAPTER_CONFIG)))
    adapter = None if is_full else read_adapter_folder(folder)
    model = _choose_base(request, recipe, adapter)
    base = find_model(model)
    notes = [] if adapter is None else _check_base(adapter, base)
    if recipe is not None and recipe.model.quantize != "none":
        notes.append(f"Trained over the base quantised to {recipe.model.quantize}; exported with the unquantised base.")
    config = read_json((folder if is_full else base.folder) / "config.json")
    update = None
    if adapter is not None:
        update = _parse(adapter, config, base)
    is_tied = bool(config.get("tie_word_embeddings"))
    weights = MergedWeights(files if is_full else base.weight_files, update, is_tied=is_tied)
    if is_full:
        _check_same_weights(weights, base, folder)
    tokenizer, stop_ids, generation = _companions(folder, base.folder)
    config = {k: v for k, v in config.items() if k not in ("_name_or_path", "torch_dtype")}
    return Source(
        folder=folder,
        model=model,
        base=base,
        adapter=adapter,
        update=update,
        weights=weights,
        tokenizer=tokenizer,
        stop_ids=stop_ids,
        config=config | {"tie_word_embeddings": weights.is_tied},
        generation=generation,
        notes=tuple(notes),
    )


def _is_full(folder: Path) -> bool:
    """Whether the folder holds a whole model that whet trained; StorageError when it holds nothing trained yet."""
    if any((folder / name).exists() for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG, _PICKLED_ADAPTER)):
        return False
    has_model = any((folder / name).is_file() for name in (FULL_WEIGHTS, INDEX, SHARDS))
    if has_model and (folder / _RECIPE).is_file():
        return True
    raise StorageError(
        "has no final weights",
        where=str(folder),
        mend="let the run finish (whet train with its recipe), or name one of its checkpoints",
    )


def _own_files(folder: Path) -> tuple[Path, ...]:
    """The files of a whole model, or the shards of a checkpoint that several ranks wrote."""
    if (folder / FULL_WEIGHTS).is_file():
        return (folder / FULL_WEIGHTS,)
    return weight_shards(folder) if is_sharded(folder) else weight_files(folder)


def _check_manifest(folder: Path, files: tuple[Path, ...]) -> None:
    """The weights and their configuration are those that the run wrote: safetensors has no checksum of its own."""
    path = folder / MANIFEST
    if not path.is_file():
        return
    expected = read_json(path).get("sha256", {})
    if missing := sorted(
        name for name in expected if name.startswith("weights-shard-") and not (folder / name).is_file()
    ):
        raise StorageError(f"{missing[0]} is missing", where=str(folder), mend="export another checkpoint of the run")
    for file in files:
        if not file.is_file() or file.name not in expected or cache.digest_of(file) == expected[file.name]:
            continue
        raise StorageError(
            f"{file.name} was changed or damaged (SHA-256 differs from {MANIFEST})",
            where=str(folder),
            mend="export one of the run's checkpoints instead",
        )


def _choose_base(request: Request, recipe: Recipe | None, adapter: AdapterFolder | None) -> Model:
    if request.base is not None:
        return Model(id=request.base)
    if recipe is None:
        said = adapter.config.get("base_model_name_or_path") if adapter is not None else None
        raise RecipeError(
            f"has no {_RECIPE}, so its base must be named"
            + (f"; {ADAPTER_CONFIG} says {said!r}, which is not followed" if said else ""),
            where=str(request.run_folder),
            mend="add --base MODEL",
        )
    return recipe.model if adapter is None else adapter.pin_base(recipe.model)


def _check_base(adapter: AdapterFolder, base: ModelSource) -> list[str]:
    """StorageError if the adapter was trained on other weights; a sentence where it does not say on which."""
    adapter.refuse_other_base(base.identity)
    if adapter.base_sha256 is None:
        return ["The adapter does not say which base weights it was trained on; only names and shapes were checked."]
    return []


def _parse(adapter: AdapterFolder, config: dict[str, Any], base: ModelSource) -> AdapterUpdate:
    try:
        update = parse_adapter(adapter.config, adapter.tensors, config)
        shapes = {name: stored.shape for name, stored in list_tensors(base.weight_files).items()}
        check_fits(update, shapes, adapter.config)
    except StorageError as error:
        raise StorageError(error.what, where=str(adapter.folder), mend=error.mend) from error
    return update


def _check_same_weights(weights: MergedWeights, base: ModelSource, folder: Path) -> None:
    trained = {name: stored.shape for name, stored in weights.tensors.items()}
    ours = MergedWeights(base.weight_files, None, is_tied=weights.is_tied).tensors
    if trained != {name: stored.shape for name, stored in ours.items()}:
        raise StorageError(f"{FULL_WEIGHTS} has other weights than {base.identity.id}", where=str(folder))


def _companions(folder: Path, base_folder: Path) -> tuple[PreTrainedTokenizerBase, tuple[int, ...], dict[str, Any]]:
    """Tokenizer, stop ids and generation settings: the run's own where it has them, else the base's."""
    refuse_own_code(folder / _TOKENIZER_CONFIG)
    has_tokenizer = (folder / _TOKENIZER_CONFIG).is_file() and (folder / "tokenizer.json").is_file()
    tokenizer = read_tokenizer(folder if has_tokenizer else base_folder)
    settings = folder if (folder / _GENERATION).is_file() else base_folder
    stop_ids = read_stop_ids(settings, tokenizer)
    generation = read_json(settings / _GENERATION) if (settings / _GENERATION).is_file() else {}
    generation = {k: v for k, v in generation.items() if not k.startswith("_")} | {"eos_token_id": list(stop_ids)}
    return tokenizer, stop_ids, json.loads(json.dumps(generation))
