"""Rotary position embedding in three operations: each half of a head is turned by its position's angles.

Llama's arrangement pairs channel i with channel i + D / 2. With x = [x0, x1] the halves of a head,

    y0 = x0 cos0 - x1 sin0        dx0 = dy0 cos0 + dy1 sin1
    y1 = x1 cos1 + x0 sin1        dx1 = dy1 cos1 - dy0 sin0

so nothing but the angles is kept for the backward pass, and each product is rounded once less than where the
turned copy of x is built first.

Shape letters: T packed tokens, H heads, D head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
