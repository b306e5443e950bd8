"""The base that a run trains over: the weights as they are, or in float8.

Float8 is for training alone. What is evaluated, merged and exported afterwards stands on the weights as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from whet.kernels.fp8_choice import choose_kept, linear_names, rounding_costs
from whet.kernels.fp8_linear import quantize_linears
from whet.models.load import LoadedModel, choose_dtype, load_pretrained
from whet.parallel.place import read_env
from whet.parallel.reduce import broadcast_text
from whet.recipe.schema import Recipe
from whet.types import TokenizedSample

DTYPE_NAMES: dict[torch.dtype, Literal["float32", "bfloat16", "float64"]] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float64: "float64",
}


@dataclass(frozen=True, slots=True)
class Base:
    """A base that is ready to train over."""

    loaded: LoadedModel
    kept: tuple[str, ...] = ()
    """linear layers that a float8 base keeps as they are; belongs into the plan"""


def load_base(
    recipe: Recipe, device: torch.device, samples: Sequence[TokenizedSample], *, kept: Sequence[str] | None = None
) -> Base:
    """The recipe's model on `device`; with `model.quantize: fp8` rounded there, layer by layer.

    `samples` of the training set decide which layers are rounded, unless `kept` says so for a continued run: rank 0
    chooses, on the CPU, before a weight reaches the device. Where memory is what a run is short of
    (`train.recompute: full`), weights are turned at every use, not kept twice.
    """
    if recipe.model.quantize != "fp8":
        return Base(load_pretrained(recipe.model, device=device, loader=recipe.model.loader))
    dtype = choose_dtype(recipe.model.dtype, device)
    model = replace(recipe.model, dtype=DTYPE_NAMES[dtype])
    loaded = load_pretrained(model, device=torch.device("cpu"))
    if kept is None:
        chosen = json.dumps(_choose(loaded, samples)) if read_env().is_main else None
        kept = json.loads(broadcast_text(chosen, is_patient=True))
    num_layers = len(linear_names(loaded.model))
    is_turned_too = recipe.train.recompute != "full"
    layers = quantize_linears(loaded.model, device=device, dtype=dtype, kept=set(kept), is_turned_too=is_turned_too)
    loaded.model.to(device)  # type: ignore[arg-type]
    note = f"{len(layers)} of {num_layers} linear layers rounded to float8 (e4m3) in training"
    identity = loaded.identity
    identity = replace(identity, note=f"{identity.note}; {note}" if identity.note else note)
    return Base(replace(loaded, identity=identity), tuple(kept))


def _choose(loaded: LoadedModel, samples: Sequence[TokenizedSample]) -> tuple[str, ...]:
    costs = rounding_costs(loaded.model, samples)
    sizes = {name: loaded.model.get_submodule(name).weight.numel() for name in costs.by_layer}  # type: ignore[operator]
    return choose_kept(costs, sizes)
