"""The schema as a reference page and JSON schema, and a recipe as sentences."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from whet.recipe.fields import all_keys, describe, field_infos, field_types, list_type, section_of, type_at
from whet.recipe.measured import PREFIX, answered_in_training, best_is_higher, best_name, chosen_on_verdict_rows
from whet.recipe.problems import dotted
from whet.recipe.schema import Adapter, Data, Optim, Recipe, Source
from whet.recipe.splits import source_kind

_HEADER = """\
# Recipe reference

Written by `whet recipe reference` from `src/whet/recipe/schema.py`; edit that file, not this one.

A recipe is one YAML file that describes one run. Every key can be set on the command line too, as
`optim.lr=1e-4`; entries of a list are counted from 0, as `data.train.0.rows=100`.
Keys marked *required* have no default. The same content for editors: `recipe.schema.json`.
"""


def explain_recipe(recipe: Recipe) -> list[str]:
    """What the recipe does, in sentences, without any number that needs the rows or the weights."""
    adapter, data, optim = recipe.adapter, recipe.data, recipe.optim
    if adapter.method == "none":
        what = f"Trains all weights of {recipe.model.id}"
    else:
        targets = "every linear layer but the output head" if adapter.targets == "all-linear" else _all(adapter.targets)
        what = f"Trains {_adapter(adapter)} on {targets} of {recipe.model.id}{_also(adapter)}"
    sentences = [
        f"{what}, seed {recipe.seed}.",
        f"Training rows: {_all([_source(source) for source in data.train])}{_shares(data)}; {_template(data)}, "
        f"at most {data.max_length:,} tokens, longer rows: {data.over_length.replace('_', ' ')}, "
        f"at most {data.max_dropped} of the rows dropped.",
        f"{_optimizer(optim)}, learning rate {optim.lr:g} with a {optim.schedule} schedule, "
        f"warm-up {_warmup(optim.warmup)}, {_batch(recipe)} per step.",
        f"Length: {_length(recipe)}.",
    ]
    if data.validation:
        sentences.append(f"Validation loss on {_all([_source(source) for source in data.validation])}.")
    sentences += _in_training(recipe)
    for evaluate in recipe.evaluate:
        sentences.append(f"Base and tuned answer {_source(evaluate.source)} ({evaluate.name}).")
    if not recipe.evaluate:
        sentences.append("Nothing is evaluated: the run cannot say whether tuning helped.")
    return [*sentences, f"Writes to {recipe.output}."]


def _optimizer(optim: Optim) -> str:
    if optim.name == "adamw_8bit":
        return "AdamW with moments of 8 bits"
    return "AdamW with float32 masters of bfloat16 weights" if optim.master == "float32" else "AdamW"


def _in_training(recipe: Recipe) -> list[str]:
    """What is answered in training, what is best, when training ends early, and with which weights."""
    train = recipe.train
    sentences = [
        f"The model in training answers {entry.name} every {entry.every:,} steps"
        f"{f' (its first {entry.max_rows:,} rows)' if entry.max_rows else ''}."
        for entry in answered_in_training(recipe)
    ]
    name = best_name(recipe)
    if name is None:
        return sentences
    by = f"{PREFIX}{name}, {'higher' if best_is_higher(recipe) else 'lower'} is better"
    ends = f"; ends after {train.patience} measurements without a new best" if train.patience else ""
    sentences.append(f"Keeps the best checkpoint by {by}{ends}; ends with the {train.final} weights.")
    if (on := chosen_on_verdict_rows(recipe)) is not None:
        sentences.append(f"Rows of {on} choose the weights and carry the verdict too, which so flatters.")
    return sentences


def _adapter(adapter: Adapter) -> str:
    kind = {"lora": "LoRA", "dora": "DoRA"}[adapter.method]
    scale = adapter.alpha / (math.sqrt(adapter.rank) if adapter.rslora else adapter.rank)
    others = [f"{rank} on {name}" for name, rank in adapter.ranks.items()]
    rank = f"{adapter.rank} ({', '.join([f'scale {scale:g}', *others])})"
    start = "" if adapter.init == "default" else f", started by {adapter.init},"
    return f"a {kind} adapter of rank {rank}{start}"


def _also(adapter: Adapter) -> str:
    also = f" and all its {_all(adapter.also_train)}" if adapter.also_train else ""
    return f"{also} (B at {adapter.lr_ratio:g} times the learning rate)" if adapter.lr_ratio != 1 else also


def _shares(data: Data) -> str:
    weights = [source.weight for source in data.train if source.weight is not None]
    return f", mixed {' : '.join(f'{weight:g}' for weight in weights)}" if weights else ""


def _template(data: Data) -> str:
    if data.template == "plain":
        return f"template plain, prompt {data.prompt!r}" if data.prompt else "template plain"
    own = "the model's own chat template" if data.chat_template == "own" else f"chat template {data.chat_template}"
    return f"{own}, reasoning {data.reasoning}" if data.reasoning else own


def _batch(recipe: Recipe) -> str:
    if recipe.batch.unit == "packs":
        return f"{recipe.batch.global_size} packs of at most {recipe.data.max_length:,} tokens"
    return f"{recipe.batch.global_size} samples"


def _all(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names)


def _source(source: Source) -> str:
    limit = f", at most {source.rows:,} rows" if source.rows and source_kind(source) != "generated" else ""
    if source_kind(source) == "generated":
        limit = f", {source.rows:,} generated" if source.rows else ", generated"
    return f"{source.source} [{source.split}{limit}]"


def _warmup(warmup: float) -> str:
    return f"{warmup:g} steps" if warmup >= 1 else f"{warmup:.4g} of the run"


def _length(recipe: Recipe) -> str:
    train = recipe.train
    if train.max_steps is not None:
        return f"{train.max_steps:,} steps"
    epochs = f"{train.epochs:g} passes over the rows" if train.epochs != 1 else "one pass over the rows"
    return f"what fits into {train.fit_seconds:g} s, at most {epochs}" if train.fit_seconds is not None else epochs


def reference_markdown() -> str:
    """The reference page: one table per section, in the order of the schema."""
    homes: dict[type, list[str]] = {Recipe: []}
    for path in all_keys():
        section = section_of(type_at(path))
        if section is not None:
            name = dotted(tuple(part for part in path if isinstance(part, str)))
            homes.setdefault(section, []).append(f"`{name}`{' (a list)' if list_type(type_at(path)) else ''}")
    return "\n".join([_HEADER, *(_section_markdown(section, places) for section, places in homes.items())])


def _section_markdown(section: type, places: list[str]) -> str:
    lines = [f"## {', '.join(places) or 'Top of the recipe'}", "", _one_line(section.__doc__), ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, annotation in field_types(section).items():
        info = field_infos(section)[key]
        inner = section_of(annotation)
        meaning = _one_line(info.description or (inner.__doc__ if inner is not None else ""))
        lines.append(f"| `{key}` | {_cell(describe(annotation))} | {_default(info)} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "*required*"
    value: Any = info.get_default(call_default_factory=True, validated_data={})
    if dataclasses.is_dataclass(value):
        return "its defaults"
    if value in ({}, (), None):
        return {"dict": "`{}`", "tuple": "`[]`"}.get(type(value).__name__, "`null`")
    if isinstance(value, tuple):
        value = list(value)
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a recipe, for editors that complete and check YAML."""
    schema = TypeAdapter(Recipe).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "whet recipe", **_tidy(schema)}


def _tidy(node: Any) -> Any:
    """Descriptions on one line; titles that only repeat the key left out."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    tidy = {key: _tidy(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if isinstance(tidy.get("description"), str):
        tidy["description"] = _one_line(tidy["description"])
    return tidy
