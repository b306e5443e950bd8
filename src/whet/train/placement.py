"""Which ranks hold what: the recipe's strategy, or for `auto` the simplest one that fits into memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from whet.estimate import memory
from whet.estimate.memory import Pass
from whet.models.families import LLAMA_SHAPED, shape_from_config
from whet.models.load import choose_dtype
from whet.parallel.env import Env
from whet.parallel.mesh import Layout, make_layout
from whet.parallel.reduce import broadcast_text
from whet.parallel.shards import Strategy
from whet.recipe.schema import Recipe
from whet.recipe.sharding_checks import why_not_sharded
from whet.train.memory_job import job_from
from whet.train.memory_plan import budget_bytes

_NAMES: dict[str, Strategy] = {"replicate": "replicate", "fsdp": "fsdp", "hsdp": "hsdp"}


def choose_layout(
    recipe: Recipe, env: Env, device: torch.device, model_folder: Path, say: Callable[[str], None]
) -> Layout:
    """This rank's place; all ranks call it. RecipeError where the ranks cannot be cut as the recipe says."""
    name: str = recipe.parallel.strategy
    if name == "auto":
        # free memory differs from rank to rank: one of them decides
        name = broadcast_text(_simplest(recipe, env, device, model_folder) if env.is_main else None)
    layout = make_layout(recipe.parallel, env, strategy=_NAMES[name], device_type=device.type)
    if env.world_size > 1:
        say(_sentence(layout))
    return layout


def _simplest(recipe: Recipe, env: Env, device: torch.device, model_folder: Path) -> Strategy:
    """`fsdp` where weights, gradients and moments of one rank are more than its memory, and it can be done."""
    if env.world_size == recipe.parallel.tensor or why_not_sharded(recipe) is not None:
        return "replicate"
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    limit = budget_bytes(recipe, env, device)
    if limit is None or config.get("model_type") not in LLAMA_SHAPED:
        return "replicate"
    job = job_from(
        recipe, shape_from_config(config), compute_bytes=choose_dtype(recipe.model.dtype, device).itemsize,
        device="cuda" if device.type == "cuda" else "cpu",
    )  # fmt: skip
    parts = memory.predict(job, Pass(tokens=0, taught=0, probabilities=0), "full")
    state = sum(parts[name] for name in ("weights", "gradients", "moments"))
    return "replicate" if state <= limit * recipe.parallel.tensor else "fsdp"


def _sentence(layout: Layout) -> str:
    ranks = f"{layout.world_size} ranks"
    shared = f", {layout.num_tensor_ranks} of them share each layer" if layout.num_tensor_ranks > 1 else ""
    if not layout.is_sharded:
        return f"{ranks}{shared}; every one holds the weights whole"
    copies = "" if layout.num_replicas == 1 else f", {layout.num_replicas} copies of them"
    return f"{ranks}{shared}; the weights lie in {layout.num_shards} parts{copies} ({layout.strategy})"
