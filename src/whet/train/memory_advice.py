"""What would help most where memory ran out: single changes of the recipe, by what the estimate says each saves."""

from __future__ import annotations

import torch

from whet.errors import OutOfMemoryError
from whet.models.families import LLAMA_SHAPED, shape_from_config
from whet.models.load import LoadedModel
from whet.parallel.mesh import Layout
from whet.recipe.schema import Recipe
from whet.train.finish import peak_memory_bytes
from whet.train.memory_savings import Setting, predicted_bytes, savings
from whet.train.pass_size import PassSize
from whet.train.room import unexplained
from whet.types import RunPlan

NUM_SAID = 3


def explain_shortage(
    recipe: Recipe, plan: RunPlan, loaded: LoadedModel, layout: Layout, device: torch.device, what: str, size: PassSize
) -> OutOfMemoryError:
    """The error that ends a run for which there is no memory: what was predicted, what was held, what would help most.

    `size`: the largest pass. Of a model whose shape the estimate does not know, only what was held is told.
    """
    held = f"{peak_memory_bytes(device) / 1e9:.2f} GB held at the peak"
    if loaded.model.config.model_type not in LLAMA_SHAPED:
        return unexplained(f"{what}\n  memory: {held}", size)
    setting = Setting(
        shape=shape_from_config(loaded.model.config.to_dict()),
        plan=plan,
        layout=layout,
        device="cuda" if device.type == "cuda" else "cpu",
        compute_bytes=loaded.compute_dtype.itemsize,
    )
    predicted = predicted_bytes(recipe, setting, size)
    planned = plan.predicted_memory_bytes
    of_plan = f", {planned / 1e9:.2f} GB for the plan's largest pass" if planned is not None else ""
    said = [saving.words for saving in savings(recipe, setting, size)[:NUM_SAID]]
    return OutOfMemoryError(
        f"{what}\n  memory: {predicted / 1e9:.2f} GB predicted for this pass{of_plan}, {held}",
        mend=f"by the estimate, {'; '.join(said)}" if said else "a smaller model, or a machine with more memory",
    )
