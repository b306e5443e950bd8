"""Where the factors of an adapter start: PEFT's own initialisations, without what they do to the base weights.

PiSSA, OLoRA and their kin start with (A0, B0) inside the base: PEFT takes s B0 A0 out of W, in W's own dtype, so that
in bfloat16 the model is another one before the first step, and an adapter applied to the published base is wrong. Here
W stays as it is. (A0, B0) become a second, frozen PEFT adapter that is subtracted: W + s (B A - B0 A0) is the model
that those methods train, up to rounding, and PEFT's own forward computes it where whet's does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from whet.errors import RecipeError
from whet.models.adapter_rows import LOOK_AT_ROWS, Losses, factors_from_rows
from whet.models.one_thread import one_thread_where_small
from whet.recipe.schema import STARTS_INSIDE_BASE, Start

START_NAME = "start"
"""PEFT's name of the frozen adapter (A0, -B0)."""

_BY_PEFT: tuple[Start, ...] = ("default", "gaussian")
"""starts that PEFT makes as it wraps a layer"""
_FAST_PISSA = "pissa_niter_16"
"""Randomised SVD (Halko et al., arXiv:0909.4061) with 16 rounds of subspace iteration."""


def peft_name(init: Start) -> bool | Literal["gaussian"]:
    """`init_lora_weights` for PEFT; False where `set_factors` follows."""
    return "gaussian" if init == "gaussian" else init == "default"


def set_factors(
    wrapped: Any,
    layers: Sequence[tuple[str, Any]],
    init: Start,
    adapter_name: str,
    *,
    losses: Losses | None,
    is_restored: bool,
) -> None:
    """Give every (name, PEFT LoRA layer) of `wrapped` the factors that `init` makes.

    Those inside the base get them twice, once to train and once to subtract. `losses` is for those that look at rows.
    With `is_restored` nothing is computed: a checkpoint brings the values.
    """
    if init in _BY_PEFT:
        return
    if not is_restored:
        for name, layer in layers:
            _check_base(name, layer, layer.r[adapter_name], init)
        if init in LOOK_AT_ROWS:
            assert losses is not None
            _set_from_rows(wrapped, layers, init, adapter_name, losses)
        else:
            for _, layer in layers:
                _factorise(layer, init, adapter_name)
    if init in STARTS_INSIDE_BASE:
        for _, layer in layers:
            _add_frozen_copy(layer, adapter_name)


def _set_from_rows(
    wrapped: Any, layers: Sequence[tuple[str, Any]], init: Start, adapter_name: str, losses: Losses
) -> None:
    for layer, factors in factors_from_rows(wrapped, layers, init, adapter_name, losses):
        for factor, value in zip((layer.lora_A, layer.lora_B), factors, strict=True):
            weight = factor[adapter_name].weight
            weight.data = value.to(weight.device, weight.dtype).contiguous()


def _factorise(layer: Any, init: Start, adapter_name: str) -> None:
    """Set A and B by PEFT's method over a float32 copy of the base weight, which PEFT then edits in vain."""
    parameter = layer.get_base_layer().weight
    weight_OI = parameter.data
    factors = {factor: factor.weight.dtype for factor in (layer.lora_A[adapter_name], layer.lora_B[adapter_name])}
    parameter.data = weight_OI.to(torch.float32, copy=True)
    try:
        with one_thread_where_small(weight_OI):
            if init == "orthogonal":
                layer.orthogonal_init(adapter_name)
            elif init == "olora":
                layer.olora_init(adapter_name)
            else:
                layer.pissa_init(adapter_name, _FAST_PISSA if init == "pissa_fast" else "pissa")
    finally:
        parameter.data = weight_OI
    for factor, dtype in factors.items():
        factor.weight.data = factor.weight.data.to(weight_OI.device, dtype).contiguous()


def _check_base(name: str, layer: Any, rank: int, init: Start) -> None:
    if init != "eva" and not layer.get_base_layer().weight.is_floating_point():
        raise RecipeError(
            f"adapter.init {init} needs the base weights as numbers, and those of {name} are quantized",
            mend="leave out model.quantize, or start with adapter.init default",
        )
    num_inputs, num_outputs = layer.in_features, layer.out_features
    # lora_ga takes one half of its directions for A and the other for B
    most = {"orthogonal": rank, "eva": num_inputs, "lora_ga": min(num_inputs, num_outputs) // 2}.get(
        init, min(num_inputs, num_outputs)
    )
    if rank > most:
        raise RecipeError(
            f"adapter.init {init} has no {rank} directions in {name} of {num_outputs} x {num_inputs}",
            mend=f"choose a rank of at most {most}",
        )


def _add_frozen_copy(layer: Any, adapter_name: str) -> None:
    """PEFT adds the adapters of a layer up, so the copy holds -B0."""
    from peft import LoraConfig

    config = LoraConfig(
        init_lora_weights=False, use_rslora=layer.use_rslora[adapter_name], lora_dropout=0.0, inference_mode=True
    )
    layer.update_layer(START_NAME, layer.r[adapter_name], layer.lora_alpha[adapter_name], config=config)
    layer.set_adapter([adapter_name, START_NAME])
    for factors, sign in ((layer.lora_A, 1), (layer.lora_B, -1)):
        copy = factors[START_NAME].weight
        copy.data = sign * factors[adapter_name].weight.data
        copy.requires_grad_(False)
