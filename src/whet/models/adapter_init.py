"""Where the factors of an adapter start: PEFT's own initialisations, without what they do to the base weights.

PiSSA, OLoRA and their kin start with (A0, B0) inside the base: PEFT takes s B0 A0 out of W, in W's own dtype, so that
in bfloat16 the model is another one before the first step, and an adapter applied to the published base is wrong. Here
W stays as it is. (A0, B0) become a second, frozen PEFT adapter that is subtracted: W + s (B A - B0 A0) is the model
that those methods train, up to rounding, and PEFT's own forward computes it where whet's does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from whet.errors import RecipeError
from whet.recipe.schema import STARTS_INSIDE_BASE, Start

START_NAME = "start"
"""PEFT's name of the frozen adapter (A0, -B0)."""

_PEFT_NAMES: dict[Start, bool | Literal["gaussian"]] = {
    "default": True,
    "gaussian": "gaussian",
    "orthogonal": False,
    "pissa": False,
    "pissa_fast": False,
    "olora": False,
}
_FAST_PISSA = "pissa_niter_16"
"""Randomised SVD (Halko et al., arXiv:0909.4061) with 16 rounds of subspace iteration."""

_LARGE = 2048 * 2048
"""weights of a matrix from which several threads decompose it faster"""


def peft_name(init: Start) -> bool | Literal["gaussian"]:
    """`init_lora_weights` for PEFT; False where `set_factors` follows. RecipeError for what is not offered."""
    if init not in _PEFT_NAMES:
        raise RecipeError(f"adapter.init {init} is not offered yet", mend=f"choose among {', '.join(_PEFT_NAMES)}")
    return _PEFT_NAMES[init]


def set_factors(layers: Iterable[tuple[str, Any]], init: Start, adapter_name: str, *, is_restored: bool) -> None:
    """Give every (name, PEFT LoRA layer) the factors that `init` makes, one layer at a time.

    Those inside the base get them twice, once to train and once to subtract. With `is_restored` nothing is
    decomposed: a checkpoint brings the values.
    """
    if peft_name(init) is not False:
        return
    for name, layer in layers:
        if not is_restored:
            _factorise(name, layer, init, adapter_name)
        if init in STARTS_INSIDE_BASE:
            _add_frozen_copy(layer, adapter_name)


def _factorise(name: str, layer: Any, init: Start, adapter_name: str) -> None:
    """Set A and B by PEFT's method over a float32 copy of the base weight, which PEFT then edits in vain."""
    parameter = layer.get_base_layer().weight
    weight_OI, rank = parameter.data, layer.r[adapter_name]
    _check_base(name, weight_OI, rank, init)
    factors = {factor: factor.weight.dtype for factor in (layer.lora_A[adapter_name], layer.lora_B[adapter_name])}
    parameter.data = weight_OI.to(torch.float32, copy=True)
    try:
        with _one_thread_where_small(weight_OI):
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


@contextmanager
def _one_thread_where_small(weight_OI: Tensor) -> Iterator[None]:
    """LAPACK's threads spin while they wait for each other: on a busy machine of two cores, two of them took twelve
    times as long as one for the layers of SmolLM2-135M (210 s against 17 s)."""
    num_threads = torch.get_num_threads()
    is_small = weight_OI.device.type == "cpu" and weight_OI.numel() < _LARGE
    torch.set_num_threads(1 if is_small else num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _check_base(name: str, weight_OI: Tensor, rank: int, init: Start) -> None:
    if not weight_OI.is_floating_point():
        raise RecipeError(
            f"adapter.init {init} needs the base weights as numbers, and those of {name} are quantized",
            mend="leave out model.quantize, or start with adapter.init default",
        )
    if init in STARTS_INSIDE_BASE and rank > min(weight_OI.shape):
        raise RecipeError(
            f"adapter.init {init} has no {rank} directions in {name} of {weight_OI.shape[0]} x {weight_OI.shape[1]}",
            mend=f"choose a rank of at most {min(weight_OI.shape)}",
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
