"""Where each value of a recipe came from (line of its file, command line, default) and what it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.recipe.fields import field_infos, field_types, section_of
from whet.recipe.overrides import PLACE, apply_overrides
from whet.recipe.problems import Path, dotted
from whet.recipe.schema import Recipe
from whet.recipe.yaml_tree import ListNode, MapNode, Node, parse_tree

DEFAULT = "default"
COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One value with its story."""

    key: str
    """dotted, as it is typed on the command line"""
    value: Any
    origin: str
    """`recipes/demo.yaml:14`, `command line`, `default`, or how it was derived"""
    meaning: str


def explain_values(recipe: Recipe, text: str, file_name: str, overrides: Sequence[str] = ()) -> tuple[Explained, ...]:
    """Every value of `recipe`, in the order of the schema; it is the recipe of this text under these overrides."""
    root, _ = parse_tree(text, lambda line: f"{file_name}:{line}")
    assert isinstance(root, MapNode)
    apply_overrides(root, overrides)
    places = dict(_places(root, ()))
    return tuple(_explain(recipe, (), places))


def _places(node: Node, path: Path) -> Iterator[tuple[Path, str]]:
    yield path, node.place
    if isinstance(node, MapNode):
        for key, inner in node.entries.items():
            yield from _places(inner, (*path, key))
    elif isinstance(node, ListNode):
        for index, inner in enumerate(node.items):
            yield from _places(inner, (*path, index))


def _explain(section: Any, path: Path, places: Mapping[Path, str]) -> Iterator[Explained]:
    kind: type = type(section)
    for key, info in field_infos(kind).items():
        value, own = getattr(section, key), (*path, key)
        if dataclasses.is_dataclass(value):
            yield from _explain(value, own, places)
        elif value and section_of(field_types(kind)[key]) is not None:
            for index, item in enumerate(value):
                yield from _explain(item, (*own, index), places)
        else:
            yield Explained(
                key=dotted(own),
                value=value,
                origin=_origin(places.get(own)),
                meaning=" ".join((info.description or "").split()),
            )


def _origin(place: str | None) -> str:
    if place is None:
        return DEFAULT
    return COMMAND_LINE if place == PLACE else place


PLAN_MEANINGS: dict[str, str] = {
    "world_size": "processes that train together, one per GPU",
    "micro_batch": "batch.micro_size; `auto`: chosen from lengths and free memory when the run begins",
    "accumulation": "batch.global_size / (micro_batch x world_size)",
    "global_batch": "batch.global_size",
    "num_samples": "rows of data.train that became samples (packs, where they are the unit)",
    "steps_per_epoch": "num_samples / batch.global_size, rounded up",
    "total_steps": "train.max_steps; else train.epochs x steps_per_epoch; at most what fits train.fit_seconds",
    "epochs": "total_steps / steps_per_epoch",
    "warmup_steps": "optim.warmup: a share of total_steps, rounded up, or a number of steps",
    "save_every": "train.save_every; else a tenth of total_steps; more where train.fit_seconds measured slow ones",
    "eval_every": "train.eval_every; else a tenth of total_steps; 0 without data.validation",
    "device": "train.device; `auto`: cuda where there is a GPU",
    "compute_dtype": "model.dtype; `auto`: bfloat16 where the hardware multiplies it fast",
    "num_threads": "train.threads; else the physical cores divided by the ranks on this machine",
    "num_lanes": "passes of a rank at a time: two where an adapter trains with two threads or more",
    "recompute": "train.recompute; `auto`: the least that fits into memory",
    "predicted_memory_bytes": "peak of each rank, foreseen when micro_batch and recompute were decided",
    "predicted_memory_parts": "bytes of each part of it in training; reading the model may have taken more",
    "longest_matmul_document": "up to which length attention is plain products, measured once on this machine",
    "attention": "whose attention was usable on this GPU",
    "loss_head": "train.loss_head; `auto`: whet's own",
    "is_compiled": "train.compile, where it can be done",
    "share_prefix": "batch.share_prefix; `auto`: where a common beginning is at least 5 % of the tokens",
    "not_in_float8": "with model.quantize: fp8, layers whose rounding would cost too much, measured on training rows",
    "measured_seconds_per_step": "median of the steps that were measured for train.fit_seconds",
}
"""Field of RunPlan -> how it is derived."""


def explain_plan(plan: Mapping[str, Any], origin: str) -> tuple[Explained, ...]:
    """The derived values of a plan that are known, in the order of RunPlan."""
    return tuple(
        Explained(key=f"plan.{name}", value=plan[name], origin=origin, meaning=meaning)
        for name, meaning in PLAN_MEANINGS.items()
        if plan.get(name) is not None
    )
