"""What a run writes, from its recipe and the shape of its model: free of torch, nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from whet.estimate.disk import checkpoint_bytes, final_bytes, run_bytes
from whet.estimate.memory import FLOAT32_BYTES
from whet.models.families import ModelShape, num_adapter_parameters, num_parameters
from whet.models.weight_forms import weights_form
from whet.recipe.schema import Recipe
from whet.train.memory_job import EIGHT_BIT_MOMENT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskNeed:
    """Bytes of the parts of a run folder."""

    final_bytes: int
    """what the run hands over: the adapter, or the model"""
    checkpoint_bytes: int
    run_bytes: int
    """free disk that the run folder needs"""
    saved_bytes_per_weight: int


def disk_need(recipe: Recipe, shape: ModelShape, *, compute_bytes: int = FLOAT32_BYTES) -> DiskNeed:
    """Bytes that the run folder takes. Weights are saved as they train: float32, but for `adamw_8bit` in
    `compute_bytes` each, with its moments of 8 bits. RecipeError where the model has no place for the adapter."""
    method, num_base = recipe.adapter.method, num_parameters(shape)
    trainable, in_file = (num_base, num_base) if method == "none" else num_adapter_parameters(shape, recipe.adapter)
    is_narrow = method == "none" and weights_form(recipe.optim) == "narrow"
    saved = compute_bytes if is_narrow else FLOAT32_BYTES
    form: dict[str, Any] = {"saved_bytes_per_weight": saved, "num_in_file": in_file}
    state: dict[str, Any] = {"has_masters": False, "moment_bytes": EIGHT_BIT_MOMENT_BYTES} if is_narrow else {}
    return DiskNeed(
        final_bytes=final_bytes(trainable, num_base, method, **form),
        checkpoint_bytes=checkpoint_bytes(trainable, num_base, method, **form, **state),
        run_bytes=run_bytes(trainable, num_base, method, keep=recipe.train.keep, **form, **state),
        saved_bytes_per_weight=saved,
    )
