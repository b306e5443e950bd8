"""Linear layers that read the same input, each with its LoRA adapter, as one autograd function.

One layer is the usual case; q, k and v, which read one input, are three: x is stored once, and their parts of its
gradient are accumulated into one tensor while they are computed. The arithmetic is that of `lora_adapter`.

Shape letters: T tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from whet.kernels import lora_adapter
from whet.kernels.dropout import StatelessDropout
from whet.kernels.fp8_linear import Fp8Linear
from whet.kernels.lora_adapter import Layer, Setting, Tensors, layers_of, setting_of


class _LoraLinears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, settings: Sequence[Setting], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        outs, narrow = lora_adapter.forward(layers_of(tensors, settings), x_TI)
        ctx.save_for_backward(x_TI, *narrow, *tensors)
        ctx.settings = settings
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, *saved = ctx.saved_tensors
        narrow, layers = saved[: len(grads)], layers_of(saved[len(grads) :], ctx.settings)
        narrow_grads = lora_adapter.narrow_gradients(layers, grads)
        of_tensors = lora_adapter.factor_gradients(layers, grads, x_TI, narrow, narrow_grads)
        dx_TI = lora_adapter.input_gradient(layers, grads, narrow_grads) if ctx.needs_input_grad[0] else None
        return dx_TI, None, *of_tensors


def lora_linears(x_TI: Tensor, layers: Sequence[Layer]) -> tuple[Tensor, ...]:
    """[T, O] of each layer."""
    tensors = [tensor for layer in layers for tensor in layer.tensors]
    outs: tuple[Tensor, ...] = _LoraLinears.apply(x_TI, [layer.setting for layer in layers], *tensors)
    return outs


def lora_linear(
    x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, *,
    scale: float, dropout: StatelessDropout | None = None, start: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """[T, O]. W, its bias and `start` = (A0 [R, I], -B0 [O, R]) are frozen. The mask is the one that `dropout` gives
    for the rows now in the model; the start sees none."""
    tensors = Tensors(weight_OI, bias_O, a_RI, b_OR, *(start or (None, None)))
    (y_TO,) = lora_linears(x_TI, [Layer(tensors, setting_of(scale, dropout, weight_OI))])
    return y_TO


def layer_of(layer: Any, adapter_name: str, start_name: str | None) -> Layer:
    """What a PEFT layer computes with now; one of those that `why_not` has nothing against."""
    base, a, b, dropout = layer.base_layer, layer.lora_A, layer.lora_B, layer.lora_dropout[adapter_name]
    start = (a[start_name].weight, b[start_name].weight) if start_name in layer.active_adapters else (None, None)
    fp8 = (base.scale_O1, base.bytes_IO) if isinstance(base, Fp8Linear) else (None, None)
    stateless = dropout if isinstance(dropout, StatelessDropout) else None
    return Layer(
        Tensors(base.weight, base.bias, a[adapter_name].weight, b[adapter_name].weight, *start, *fp8),
        setting_of(float(layer.scaling[adapter_name]), stateless, base.weight),
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody watches or changes what goes through this module."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def is_active(layer: Any) -> bool:
    """Whether the adapter is to be computed: neither switched off for a while nor merged into its base."""
    return not layer.disable_adapters and not layer.merged


def install(model: nn.Module, adapter_name: str, start_name: str | None = None) -> tuple[int, list[str]]:
    """Let each plain PEFT LoRA layer of this model instance compute through `lora_linears`.

    `start_name` names the second PEFT adapter of layers that have a start; PEFT adds its adapters, so it holds -B0.
    Returns (layers changed, sentences about layers that stay as PEFT computes them). Undone by `uninstall`.
    """
    num_changed, reasons = 0, []
    for name, layer in model.named_modules():
        if not hasattr(layer, "lora_A") or adapter_name not in layer.lora_A:
            continue
        if reason := why_not(layer, adapter_name, start_name):
            reasons.append(f"{name}: {reason}")
            continue
        layer.forward = MethodType(_forward_of(adapter_name, start_name), layer)
        num_changed += 1
    return num_changed, reasons


def uninstall(model: nn.Module) -> None:
    """Give every layer its own class's forward back."""
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.__dict__.pop("forward", None)


def why_not(layer: Any, adapter_name: str, start_name: str | None) -> str | None:
    """Why a PEFT layer is left to PEFT; None where it is one that `lora_linears` computes."""
    if type(layer.base_layer) not in (nn.Linear, Fp8Linear):
        return f"its base layer is a {type(layer.base_layer).__name__}"
    if type(layer.base_layer.weight.data) is not Tensor:
        return f"its base weight is a {type(layer.base_layer.weight.data).__name__}"
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
    if any(has_hooks(inner) for inner in layer.modules() if inner is not layer):
        return "a hook is inside it"
    return None


def _forward_of(adapter_name: str, start_name: str | None) -> Callable[..., Tensor]:
    """Bound to the layer like a method, so that a copy of a model computes with its own layers."""

    def forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not is_active(layer):
            out: Tensor = type(layer).forward(layer, x, *args, **kwargs)
            return out
        x_TI = x.reshape(-1, x.shape[-1])
        (y_TO,) = lora_linears(x_TI, [layer_of(layer, adapter_name, start_name)])
        return y_TO.view(*x.shape[:-1], -1)

    return forward
