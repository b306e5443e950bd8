"""The sizes that memory follows from, of a recipe and the shape of its model: free of torch, nothing is loaded."""

from __future__ import annotations

from typing import Any, Literal

from whet.estimate import memory
from whet.estimate.memory import Job
from whet.models.families import ModelShape, num_adapter_parameters, num_parameters
from whet.models.weight_forms import weights_form
from whet.recipe.schema import STARTS_INSIDE_BASE, Recipe

EIGHT_BIT_BLOCK = 256
"""values that share a scale: optim/eight_bit.py, which needs torch"""
EIGHT_BIT_MOMENT_BYTES = 2 * (1 + 4 / EIGHT_BIT_BLOCK)
"""of both moments of a parameter, scales included"""


def job_from(
    recipe: Recipe, shape: ModelShape, *, compute_bytes: int, device: Literal["cpu", "cuda"]
) -> Job:  # fmt: skip
    """The sizes that follow from a recipe and the shape of its model, which need not be loaded."""
    adapter = recipe.adapter
    is_adapter = adapter.method != "none"
    sizes = shape.projection_sizes()
    targets = sizes if adapter.targets == "all-linear" else adapter.targets
    per_rank = 2 if adapter.init in STARTS_INSIDE_BASE else 1
    ranks = sum(adapter.ranks.get(name, adapter.rank) for name in targets) * per_rank
    return Job(
        num_layers=shape.num_layers,
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        query_size=shape.num_heads * shape.head_dim,
        key_size=shape.num_kv_heads * shape.head_dim,
        num_heads=shape.num_heads,
        vocab=shape.vocab,
        num_base=num_parameters(shape),
        num_trainable=num_adapter_parameters(shape, adapter)[0] if is_adapter else num_parameters(shape),
        trains_all=not is_adapter,
        is_fused=adapter.method == "lora" and recipe.model.quantize in ("none", "fp8"),
        narrow_values=ranks if is_adapter else 0,
        compute_bytes=compute_bytes,
        is_tied=shape.tie_embeddings,
        has_dropout=is_adapter and adapter.dropout > 0,
        has_snapshot=recipe.train.guard.max_rollbacks > 0,
        **_held(recipe, compute_bytes),
        device=device,
    )


def _held(recipe: Recipe, compute_bytes: int) -> dict[str, Any]:
    """How all weights are held where the optimizer does not need them wide."""
    form = weights_form(recipe.optim)
    if form == "wide" or (form == "mastered" and compute_bytes >= memory.FLOAT32_BYTES):
        return {}
    if form == "mastered":
        return {"is_widened": False, "master_bytes": memory.FLOAT32_BYTES}
    return {"is_widened": False, "moment_bytes": EIGHT_BIT_MOMENT_BYTES}
