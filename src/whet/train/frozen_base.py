"""The base that a run trains over: the weights as they are, or in float8.

Float8 is for training alone. What is evaluated, merged and exported afterwards stands on the weights as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from whet.kernels.fp8_linear import quantize_linears
from whet.models.load import LoadedModel, choose_dtype, load_pretrained
from whet.recipe.schema import Recipe

DTYPE_NAMES: dict[torch.dtype, Literal["float32", "bfloat16", "float64"]] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float64: "float64",
}


def load_base(recipe: Recipe, device: torch.device) -> LoadedModel:
    """The recipe's model on `device`, ready to train; with `model.quantize: fp8` rounded there, layer by layer.

    Where memory is what a run is short of (`train.recompute: full`), weights are turned at every use, not kept twice.
    """
    if recipe.model.quantize != "fp8":
        return load_pretrained(recipe.model, device=device)
    dtype = choose_dtype(recipe.model.dtype, device)
    model = replace(recipe.model, dtype=DTYPE_NAMES[dtype])
    loaded = load_pretrained(model, device=torch.device("cpu"))
    is_turned_too = recipe.train.recompute != "full"
    layers = quantize_linears(loaded.model, device=device, dtype=dtype, is_turned_too=is_turned_too)
    loaded.model.to(device)  # type: ignore[arg-type]
    note = f"{len(layers)} linear layers rounded to float8 (e4m3) in training"
    identity = loaded.identity
    return replace(loaded, identity=replace(identity, note=f"{identity.note}; {note}" if identity.note else note))
