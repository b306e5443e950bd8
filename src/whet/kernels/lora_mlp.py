"""Llama's feed-forward layer with three LoRA adapters as one autograd function: y = down(silu(gate(x)) * up(x)).

Stored are x, the two inner tensors that the derivative of silu needs, and what is narrow. The product h that `down`
reads is made again in the backward pass, and the gradients of gate and up are accumulated into one gradient of x. The
arithmetic of a layer is that of `lora_adapter`, that between them `swiglu`'s.

Shape letters: T tokens, E hidden size, F channels of the feed-forward layer, K rank of an adapter (twice with a start).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from whet.kernels import lora_adapter, swiglu
from whet.kernels.lora_adapter import Layer, Setting, layers_of


class _LoraMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TE: Tensor, settings: Sequence[Setting], *tensors: Tensor | None) -> Tensor:
        *inner, down = layers_of(tensors, settings)
        (gate_TF, up_TF), narrow = lora_adapter.forward(inner, x_TE)
        (y_TE,), narrow_down = lora_adapter.forward([down], swiglu.swiglu(gate_TF, up_TF))
        ctx.save_for_backward(x_TE, gate_TF, up_TF, *narrow, *narrow_down, *tensors)
        ctx.settings = settings
        return y_TE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TE, gate_TF, up_TF, gate_KT, up_KT, down_KT, *tensors = ctx.saved_tensors
        *inner, down = layers_of(tensors, ctx.settings)
        down_grads = lora_adapter.narrow_gradients([down], grads)
        dh_TF = lora_adapter.input_gradient([down], grads, down_grads)
        h_TF, *inner_grads = swiglu.backward_into(dh_TF, gate_TF, up_TF)
        of_down = lora_adapter.factor_gradients([down], grads, h_TF, [down_KT], down_grads)
        del h_TF
        narrow_grads = lora_adapter.narrow_gradients(inner, inner_grads)
        of_inner = lora_adapter.factor_gradients(inner, inner_grads, x_TE, [gate_KT, up_KT], narrow_grads)
        dx_TE = lora_adapter.input_gradient(inner, inner_grads, narrow_grads) if ctx.needs_input_grad[0] else None
        return dx_TE, None, *of_inner, *of_down


def lora_mlp(x_TE: Tensor, gate: Layer, up: Layer, down: Layer) -> Tensor:
    """[T, E]. The mask of `down` is for rows of F channels."""
    out: Tensor = _LoraMlp.apply(
        x_TE, [gate.setting, up.setting, down.setting], *gate.tensors, *up.tensors, *down.tensors
    )  # fmt: skip
    return out
