"""SwiGLU, silu(gate) * up, which keeps only its two inputs.

With s = silu(g) and h = s u:  du = dh s,  dg = dh u silu'(g). Shazeer, GLU Variants Improve Transformer, 2020,
equation 6. Values are rounded where transformers' LlamaMLP rounds them. Where Triton's kernels run
(`triton_support`), `triton_swiglu` reads and writes each value once.

Shape letters: T packed tokens, F channels of the feed-forward layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from whet.kernels import triton_support


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_TF, up_TF)
        if triton_support.is_used(gate_TF):
            from whet.kernels import triton_swiglu

            return triton_swiglu.forward(gate_TF, up_TF)
        return nn.functional.silu(gate_TF).mul_(up_TF)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dh_TF,) = grads
        gate_TF, up_TF = ctx.saved_tensors
        if triton_support.is_used(gate_TF):
            from whet.kernels import triton_swiglu

            return triton_swiglu.backward(dh_TF, gate_TF, up_TF)
        dgate_TF = torch.ops.aten.silu_backward(dh_TF * up_TF, gate_TF)
        return dgate_TF, nn.functional.silu(gate_TF).mul_(dh_TF)


def swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """[T, F]: silu(gate) * up."""
    out: Tensor = _SwiGLU.apply(gate_TF, up_TF)
    return out


def backward_into(dh_TF: Tensor, gate_TF: Tensor, up_TF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(h, dgate, dup) for a backward pass that needs h = silu(gate) * up once more; dgate takes the memory of dh."""
    if triton_support.is_used(gate_TF):
        from whet.kernels import triton_swiglu

        return triton_swiglu.backward_into(dh_TF, gate_TF, up_TF)
    silu_TF = nn.functional.silu(gate_TF)
    h_TF = silu_TF * up_TF
    dup_TF = silu_TF.mul_(dh_TF)
    dh_TF.mul_(up_TF)
    return h_TF, torch.ops.aten.silu_backward.grad_input(dh_TF, gate_TF, grad_input=dh_TF), dup_TF
