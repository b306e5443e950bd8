"""RMS norm with exact gradients that keeps its input and one number per token.

y = w round(x r) with r = (mean(x^2) + eps)^(-1/2), computed as transformers' LlamaRMSNorm does: in float32 (or wider),
rounded to x's dtype, then times w. Zhang and Sennrich, Root Mean Square Layer Normalization, 2019, equation 4.

Backward, with g = dy w:  dx = r (g - x r^2 sum(g x) / E). Weight normalisation v -> v c / |v| has the gradient
(c / |v|) (g - v sum(g v) / |v|^2): the same with c = sqrt(E) and sqrt(E) / r in place of |v|. torch has that as one
kernel with float32 inside, so the backward pass reads and writes each value once. Where Triton's kernels run
(`triton_support`), both passes are `triton_norm`'s.

Shape letters: T tokens, E hidden size.
"""

from __future__ import annotations

import math
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from whet.kernels import triton_support

_KERNEL_DTYPES = (torch.bfloat16, torch.float32, torch.float64)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TE: Tensor, weight_E: Tensor, eps: float) -> Tensor:
        if triton_support.is_used(x_TE):
            from whet.kernels import triton_norm

            _, y_TE, r_T1 = triton_norm.forward(x_TE, None, weight_E, eps)
            ctx.save_for_backward(x_TE, r_T1, weight_E)
            return y_TE
        x_TE = x_TE.contiguous()
        wide_TE = x_TE.to(torch.promote_types(x_TE.dtype, torch.float32), copy=True)
        norm_T1 = torch.linalg.vector_norm(wide_TE, dim=-1, keepdim=True)
        r_T1 = norm_T1.square_().div_(x_TE.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_TE, r_T1, weight_E)
        return weight_E * wide_TE.mul_(r_T1).to(x_TE.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy_TE,) = grads
        x_TE, r_T1, weight_E = ctx.saved_tensors
        if triton_support.is_used(x_TE):
            from whet.kernels import triton_norm

            return *triton_norm.backward(dy_TE, x_TE, r_T1, weight_E, weight_trains=ctx.needs_input_grad[1]), None
        grad_x = _grad_x(dy_TE, x_TE, r_T1, weight_E) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            normed_TE = (x_TE * r_T1).to(x_TE.dtype)
            grad_weight = (dy_TE * normed_TE).sum(0, dtype=r_T1.dtype).to(weight_E.dtype)
        return grad_x, grad_weight, None


def _grad_x(dy_TE: Tensor, x_TE: Tensor, r_T1: Tensor, weight_E: Tensor) -> Tensor:
    root = math.sqrt(x_TE.shape[-1])
    if x_TE.device.type != "cpu" or x_TE.dtype not in _KERNEL_DTYPES:
        g_TE = (dy_TE * weight_E).to(r_T1.dtype)
        inner_T1 = (g_TE * x_TE).sum(-1, keepdim=True)
        return (r_T1 * (g_TE - x_TE * (r_T1 / root).square() * inner_T1)).to(x_TE.dtype)
    # the kernel takes c in x's dtype; what sqrt(E) loses there goes into g, before its one rounding
    c = torch.tensor(root, dtype=x_TE.dtype)
    g_TE = torch.addcmul(c.new_zeros(()), dy_TE, weight_E, value=root / c.item()).to(x_TE.dtype)
    c_T1 = c.expand(len(x_TE), 1).contiguous()
    grad_x, _ = torch.ops.aten._weight_norm_interface_backward(g_TE, x_TE, c_T1, root / r_T1, 0)
    return grad_x


def rms_norm(x_TE: Tensor, weight_E: Tensor, eps: float) -> Tensor:
    """x over its root mean square, times the weight; any leading shape. Gradients for x and a weight that trains."""
    out: Tensor = _RmsNorm.apply(x_TE.reshape(-1, x_TE.shape[-1]), weight_E, eps)
    return out.view(x_TE.shape)


class _AddRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TE: Tensor, residual_TE: Tensor, weight_E: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        from whet.kernels import triton_norm

        h_TE, y_TE, r_T1 = triton_norm.forward(x_TE, residual_TE, weight_E, eps)
        ctx.save_for_backward(h_TE, r_T1, weight_E)
        return h_TE, y_TE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from whet.kernels import triton_norm

        dh_TE, dy_TE = grads
        h_TE, r_T1, weight_E = ctx.saved_tensors
        weight_trains = ctx.needs_input_grad[2]
        grad_h, grad_weight = triton_norm.backward(dy_TE, h_TE, r_T1, weight_E, dh_TE, weight_trains=weight_trains)
        return grad_h, grad_h, grad_weight, None


def add_rms_norm(x_TE: Tensor, residual_TE: Tensor, weight_E: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(h, y): h = x + residual and y = `rms_norm` of h; any leading shape."""
    if not triton_support.is_used(x_TE):
        h_TE = x_TE + residual_TE
        return h_TE, rms_norm(h_TE, weight_E, eps)
    rows = (each.reshape(-1, each.shape[-1]) for each in (x_TE, residual_TE))
    h_TE, y_TE = _AddRmsNorm.apply(*rows, weight_E, eps)
    return h_TE.view(x_TE.shape), y_TE.view(x_TE.shape)


def install(model: nn.Module) -> tuple[int, list[str]]:
    """Let each RMS norm of this model instance compute through `rms_norm`.

    Returns (norms changed, sentences about norms that stay as they are). Undone by `uninstall`.
    """
    num_changed, reasons = 0, []
    for name, module in model.named_modules():
        if not _looks_like_a_norm(module):
            continue
        if reason := _why_not(module):
            reasons.append(f"{name}: {reason}")
            continue
        module.forward = MethodType(_forward, module)
        num_changed += 1
    return num_changed, reasons


def uninstall(model: nn.Module) -> None:
    """Give every norm its own class's forward back."""
    for module in model.modules():
        if _looks_like_a_norm(module):
            module.__dict__.pop("forward", None)


def is_installed(module: nn.Module) -> bool:
    """Whether this norm computes through `rms_norm`, and nothing was put over it since."""
    return getattr(vars(module).get("forward"), "__func__", None) is _forward


def _looks_like_a_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("RMSNorm")


def _why_not(module: Any) -> str | None:
    if not hasattr(module, "variance_epsilon") or not isinstance(getattr(module, "weight", None), Tensor):
        return f"a {type(module).__name__} has no weight and variance_epsilon"
    weight_E = module.weight
    probe_TE = torch.linspace(-2.0, 3.0, 2 * len(weight_E), dtype=weight_E.dtype, device=weight_E.device).view(2, -1)
    with torch.no_grad():
        own_TE = type(module).forward(module, probe_TE)
        if not torch.allclose(own_TE, rms_norm(probe_TE, weight_E, module.variance_epsilon), rtol=1e-2, atol=1e-4):
            return f"a {type(module).__name__} computes something else"
    return None


def _forward(module: Any, x: Tensor) -> Tensor:
    return rms_norm(x, module.weight, module.variance_epsilon)
