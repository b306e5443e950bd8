"""What trackers are told about a run before its first step: name, project, tags, and the recipe without secrets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from whet.recipe.schema import Recipe
from whet.redact import without_secrets
from whet.tracking.protocol import TrackedRun

_LONGEST_TAG = 64
"""what Weights & Biases takes"""


def describe(recipe: Recipe, folder: Path, resume_step: int) -> TrackedRun:
    """The run of `recipe` in `folder`, which has `resume_step` steps behind it."""
    return TrackedRun(
        name=without_secrets(recipe.tracked_as.name or recipe.name),
        folder=folder,
        resume_step=resume_step,
        project=without_secrets(recipe.tracked_as.project),
        tags=tags_of(recipe),
        config=_cleaned(asdict(recipe)),
        is_online=recipe.tracked_as.online,
    )


def tags_of(recipe: Recipe) -> tuple[str, ...]:
    """The recipe's tags, then the lora-ns guide's: method, rank, scale, start, variant, rate, batch, rows, model."""
    adapter, optim = recipe.adapter, recipe.optim
    own = [without_secrets(tag) for tag in recipe.tracked_as.tags]
    if adapter.method == "none":
        found = ["method:full"]
    else:
        found = [f"method:{adapter.method}", f"rank:{adapter.rank}", f"alpha:{adapter.alpha:g}"]
        found += [f"init:{adapter.init}"] if adapter.init != "default" else []
        found += ["dora"] if adapter.method == "dora" else []
        found += ["rslora"] if adapter.rslora else []
    found += [f"lr:{optim.lr:.0e}", f"optim:{optim.name}", f"bs:{recipe.batch.global_size}"]
    found += [f"trainer:{each.name}" for each in recipe.callbacks]
    found += [f"data:{Path(source.source).name}" for source in recipe.data.train]
    found += [f"model:{Path(recipe.model.id).name}"]
    return tuple(dict.fromkeys(tag[:_LONGEST_TAG] for tag in (*own, *map(without_secrets, found)) if tag))


def _cleaned(value: Any) -> Any:
    """The same value with every text without secrets; tuples as lists."""
    if isinstance(value, dict):
        return {key: _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(inner) for inner in value]
    return without_secrets(value) if isinstance(value, str) else value
