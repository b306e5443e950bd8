"""Rotary position embedding in three operations: each half of a head is turned by its position's angles.

Llama's arrangement pairs channel i with channel i + D / 2. With x = [x0, x1] the halves of a head,

    y0 = x0 cos0 - x1 sin0        dx0 = dy0 cos0 + dy1 sin1
    y1 = x1 cos1 + x0 sin1        dx1 = dy1 cos1 - dy0 sin0

so nothing but the angles is kept for the backward pass, and each product is rounded once less than where the
turned copy of x is built first. Where Triton's kernels run (`triton_support`), queries and keys are turned in one.

Shape letters: T packed tokens, H (query) heads, K key heads, D head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from whet.kernels import triton_support


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_THD: Tensor, cos_T1D: Tensor, sin_T1D: Tensor) -> Tensor:
        ctx.save_for_backward(cos_T1D, sin_T1D)
        half = x_THD.shape[-1] // 2
        y_THD = x_THD * cos_T1D
        y_THD[..., :half].addcmul_(x_THD[..., half:], sin_T1D[..., :half], value=-1)
        y_THD[..., half:].addcmul_(x_THD[..., :half], sin_T1D[..., half:])
        return y_THD.to(x_THD.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy_THD,) = grads
        cos_T1D, sin_T1D = ctx.saved_tensors
        half = dy_THD.shape[-1] // 2
        dx_THD = dy_THD * cos_T1D
        dx_THD[..., :half].addcmul_(dy_THD[..., half:], sin_T1D[..., half:])
        dx_THD[..., half:].addcmul_(dy_THD[..., :half], sin_T1D[..., :half], value=-1)
        return dx_THD.to(dy_THD.dtype), None, None


def rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Queries or keys (or both side by side) turned to their positions, in x's dtype. x may be any strided view.

    The angles are constants: they get no gradient. Where they are wider than x (autocast), the turn is computed in
    their format and rounded once. Su et al., RoFormer, 2021, equation 34.
    """
    wide = torch.promote_types(x_THD.dtype, cos_TD.dtype)
    out: Tensor = _Rotate.apply(x_THD, cos_TD.to(wide).unsqueeze(-2), sin_TD.to(wide).unsqueeze(-2))
    return out


class _RotateBoth(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_THD: Tensor, k_TKD: Tensor, cos_TD: Tensor, sin_TD: Tensor
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        from whet.kernels import triton_rotary

        ctx.save_for_backward(cos_TD, sin_TD)
        return triton_rotary.turn(q_THD, k_TKD, cos_TD, sin_TD, turns_back=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from whet.kernels import triton_rotary

        return *triton_rotary.turn(*grads, *ctx.saved_tensors, turns_back=True), None, None


def rotate_both(q_THD: Tensor, k_TKD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> tuple[Tensor, Tensor]:
    """`rotate` of queries and of keys, which may have other strides and another number of heads."""
    if triton_support.is_used(q_THD) and triton_support.is_used(k_TKD):
        both: tuple[Tensor, Tensor] = _RotateBoth.apply(q_THD, k_TKD, cos_TD, sin_TD)
        return both
    return rotate(q_THD, cos_TD, sin_TD), rotate(k_TKD, cos_TD, sin_TD)
