"""A linear layer with its LoRA adapter as one autograd function: y = x W^T + s drop(x) A^T B^T.

The base product is accumulated into in place; stored are x (which the base product needs anyway) and the narrow
h = drop(x) A^T, while the dropout mask is made again in the backward pass. With dy the gradient of y and g = dy B:

    dB = s dy^T h        dA = s g^T drop(x)        dx = dy W + s drop'(g A)

An adapter that starts inside the base (PiSSA and its kin) has a start (A0, B0) that is taken off again:

    y = x W^T + s (drop(x) A^T B^T - x A0^T B0^T)

The two terms are far larger than their difference, so the difference is what is computed, with d = drop(x):

    B A d - B0 A0 x = B (A - A0) d + (B - B0) A0 d + B0 A0 (d - x)

At step 0 the first two terms are zeros and the third is absent without dropout: y is the base's to the last bit, in
any dtype; later the rounding of a bfloat16 product is relative to what was learned. A0 and B0 are kept in the dtype of
A and B (float32 or wider), in which A - A0 has no rounding to speak of.

Products run in the input's dtype with the accumulation width of the hardware; A, B and their gradients stay float32
(the scheme of autocast). In float32 and float64 the result is PEFT's own up to the order of sums.

Shape letters: T tokens, I inputs, O outputs, R rank, K = 2R.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from whet.kernels.dropout import StatelessDropout

Mask = Callable[[], Tensor]


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor,
        scale: float, keep_probability: float, mask: Mask | None,
    ) -> Tensor:  # fmt: skip
        y_TO = nn.functional.linear(x_TI, weight_OI, bias_O)
        h_TR = _dropped(x_TI, mask, keep_probability) @ a_RI.to(x_TI.dtype).T
        y_TO.addmm_(h_TR, b_OR.to(x_TI.dtype).T, alpha=scale)
        ctx.save_for_backward(x_TI, h_TR, weight_OI, a_RI, b_OR)
        ctx.scale, ctx.keep_probability, ctx.mask = scale, keep_probability, mask
        return y_TO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy_TO,) = grads
        x_TI, h_TR, weight_OI, a_RI, b_OR = ctx.saved_tensors
        a, b = a_RI.to(x_TI.dtype), b_OR.to(x_TI.dtype)
        dropped_TI = _dropped(x_TI, ctx.mask, ctx.keep_probability)
        g_TR = dy_TO @ b
        grad_a = (g_TR.T @ dropped_TI).to(a_RI.dtype).mul_(ctx.scale)
        grad_b = (dy_TO.T @ h_TR).to(b_OR.dtype).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = dy_TO @ weight_OI
            if ctx.mask is None:
                grad_x.addmm_(g_TR, a, alpha=ctx.scale)
            else:
                grad_x += _dropped(g_TR @ a, ctx.mask, ctx.keep_probability).mul_(ctx.scale)
        return grad_x, None, None, grad_a, grad_b, None, None, None


class _LoraLinearFromStart(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor,
        start_a_RI: Tensor, minus_start_b_OR: Tensor, scale: float, keep_probability: float, mask: Mask | None,
    ) -> Tensor:  # fmt: skip
        y_TO = nn.functional.linear(x_TI, weight_OI, bias_O)
        down_KI, up_OK = _difference(a_RI, b_OR, start_a_RI, minus_start_b_OR, x_TI.dtype)
        h_TK = _dropped(x_TI, mask, keep_probability) @ down_KI.T
        y_TO.addmm_(h_TK, up_OK.T, alpha=scale)
        if mask is not None:
            noise_TR = h_TK[:, len(a_RI) :] - x_TI @ start_a_RI.to(x_TI.dtype).T
            y_TO.addmm_(noise_TR, minus_start_b_OR.to(x_TI.dtype).T, alpha=-scale)
        ctx.save_for_backward(x_TI, h_TK, weight_OI, a_RI, b_OR, start_a_RI, minus_start_b_OR)
        ctx.scale, ctx.keep_probability, ctx.mask = scale, keep_probability, mask
        return y_TO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy_TO,) = grads
        x_TI, h_TK, weight_OI, a_RI, b_OR, start_a_RI, minus_start_b_OR = ctx.saved_tensors
        rank = len(a_RI)
        down_KI, up_OK = _difference(a_RI, b_OR, start_a_RI, minus_start_b_OR, x_TI.dtype)
        g_TK = dy_TO @ up_OK
        dropped_TI = _dropped(x_TI, ctx.mask, ctx.keep_probability)
        grad_a = (g_TK[:, :rank].T @ dropped_TI).to(a_RI.dtype).mul_(ctx.scale)
        grad_b = (dy_TO.T @ (h_TK[:, :rank] + h_TK[:, rank:])).to(b_OR.dtype).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = dy_TO @ weight_OI
            if ctx.mask is None:
                grad_x.addmm_(g_TK, down_KI, alpha=ctx.scale)
            else:
                minus_start_g_TR = dy_TO @ minus_start_b_OR.to(x_TI.dtype)
                g_TK[:, rank:] -= minus_start_g_TR
                grad_x += _dropped(g_TK @ down_KI, ctx.mask, ctx.keep_probability).mul_(ctx.scale)
                grad_x.addmm_(minus_start_g_TR, start_a_RI.to(x_TI.dtype), alpha=ctx.scale)
        return grad_x, None, None, grad_a, grad_b, None, None, None, None, None


def _difference(
    a_RI: Tensor, b_OR: Tensor, start_a_RI: Tensor, minus_start_b_OR: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """[A - A0; A0] and [B, B - B0]: their product is B A - B0 A0. The differences are taken before narrowing."""
    down_KI = torch.cat([a_RI - start_a_RI, start_a_RI]).to(dtype)
    up_OK = torch.cat([b_OR, b_OR + minus_start_b_OR], dim=1).to(dtype)
    return down_KI, up_OK


def _dropped(x_TI: Tensor, mask: Mask | None, keep_probability: float) -> Tensor:
    if mask is None:
        return x_TI
    return (x_TI * mask()).mul_(1.0 / keep_probability)


def lora_linear(
    x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, *,
    scale: float, dropout: StatelessDropout | None = None, start: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """[T, O]. W, its bias and `start` = (A0 [R, I], -B0 [O, R]) are frozen. The mask is the one that `dropout` gives
    for the rows now in the model; the start sees none."""
    mask: Mask | None = None
    keep_probability = 1.0
    if dropout is not None and dropout.training and dropout.p > 0:
        mask, keep_probability = dropout.mask_maker(x_TI.shape[-1], x_TI.device), 1.0 - dropout.p
    out: Tensor
    if start is None:
        out = _LoraLinear.apply(x_TI, weight_OI, bias_O, a_RI, b_OR, scale, keep_probability, mask)
    else:
        out = _LoraLinearFromStart.apply(
            x_TI, weight_OI, bias_O, a_RI, b_OR, *start, scale, keep_probability, mask
        )  # fmt: skip
    return out


def install(model: nn.Module, adapter_name: str, start_name: str | None = None) -> tuple[int, list[str]]:
    """Let each plain PEFT LoRA layer of this model instance compute through `lora_linear`.

    `start_name` names the second PEFT adapter of layers that have a start; PEFT adds its adapters, so it holds -B0.
    Returns (layers changed, sentences about layers that stay as PEFT computes them). Undone by `uninstall`.
    """
    num_changed, reasons = 0, []
    for name, layer in model.named_modules():
        if not hasattr(layer, "lora_A") or adapter_name not in layer.lora_A:
            continue
        if reason := _why_not(layer, adapter_name, start_name):
            reasons.append(f"{name}: {reason}")
            continue
        layer.forward = _forward_of(layer, adapter_name, start_name)
        num_changed += 1
    return num_changed, reasons


def uninstall(model: nn.Module) -> None:
    """Give every layer its own class's forward back."""
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.__dict__.pop("forward", None)


def _why_not(layer: Any, adapter_name: str, start_name: str | None) -> str | None:
    if type(layer.base_layer) is not nn.Linear:
        return f"its base layer is a {type(layer.base_layer).__name__}"
    if layer.base_layer.weight.requires_grad:
        return "its base weight trains too"
    if adapter_name in getattr(layer, "lora_variant", {}):
        return "it is a LoRA variant"
    if set(layer.active_adapters) - {adapter_name, start_name}:
        return "it has another adapter"
    if layer.lora_A[adapter_name].bias is not None or layer.lora_B[adapter_name].bias is not None:
        return "its adapter has a bias"
    dropout = layer.lora_dropout[adapter_name]
    if not isinstance(dropout, StatelessDropout | nn.Identity):
        return "its dropout draws from a generator"
    return None


def _forward_of(layer: Any, adapter_name: str, start_name: str | None) -> Callable[..., Tensor]:
    base, a, b = layer.base_layer, layer.lora_A[adapter_name], layer.lora_B[adapter_name]
    dropout = layer.lora_dropout[adapter_name]
    scale = float(layer.scaling[adapter_name])
    stateless = dropout if isinstance(dropout, StatelessDropout) else None
    has_start = start_name in layer.active_adapters

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        start = (layer.lora_A[start_name].weight, layer.lora_B[start_name].weight) if has_start else None
        y_TO = lora_linear(
            x_TI, base.weight, base.bias, a.weight, b.weight, scale=scale, dropout=stateless, start=start
        )  # fmt: skip
        return y_TO.view(*x.shape[:-1], -1)

    return forward
