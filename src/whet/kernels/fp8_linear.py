"""A frozen linear layer in float8, and a model whose linear layers are replaced by such.

Embedding, output head, norms and adapters keep their format, and so do layers whose rounding would cost too much
(fp8_choice.py). The layers are meant for training over them: what is saved, merged or exported belongs to the weights
as they were.

Shape letters: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from whet.kernels import fp8
from whet.kernels.fp8 import Fp8Weight
from whet.kernels.fp8_choice import BUDGET, linear_names


class _Fp8Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, bias_O: Tensor | None, *weight: Tensor) -> Tensor:
        ctx.save_for_backward(*weight)
        (y_TO,) = fp8.outputs([Fp8Weight(*weight)], [bias_O], x_TI)
        return y_TO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dx_TI = fp8.input_gradient([Fp8Weight(*ctx.saved_tensors)], grads)
        return dx_TI, *[None] * (len(Fp8Weight._fields) + 1)


def fp8_linear(x_TI: Tensor, weight: Fp8Weight, bias_O: Tensor | None = None) -> Tensor:
    """[T, O] of a frozen layer, as `fp8` defines it; the gradient of x is the only one."""
    out: Tensor = _Fp8Product.apply(x_TI, bias_O, *weight)
    return out


class Fp8Linear(nn.Linear):
    """A linear layer whose weight is rounded to float8 and frozen. An nn.Linear, because PEFT adapts no others.

    `weight` holds the first part of an Fp8Weight: bytes on a device with float8 products, else rounded numbers.
    """

    scale_O1: Tensor
    bytes_IO: Tensor | None

    def __init__(self, weight: Fp8Weight, bias_O: Tensor | None) -> None:
        num_outputs, num_inputs = weight.values_OI.shape
        super().__init__(num_inputs, num_outputs, bias=bias_O is not None, device="meta")
        self.weight = nn.Parameter(weight.values_OI, requires_grad=False)
        if bias_O is not None:
            self.bias = nn.Parameter(bias_O.detach(), requires_grad=False)
        self.register_buffer("scale_O1", weight.scale_O1, persistent=False)
        self.register_buffer("bytes_IO", weight.bytes_IO, persistent=False)

    @property
    def fp8_weight(self) -> Fp8Weight:
        """What the products read."""
        return Fp8Weight(self.weight.data, self.scale_O1, self.bytes_IO)

    def forward(self, input: Tensor) -> Tensor:
        """[..., O] from [..., I]."""
        y_TO = fp8_linear(input.reshape(-1, self.in_features), self.fp8_weight, self.bias)
        return y_TO.view(*input.shape[:-1], self.out_features)


@torch.no_grad()
def quantize_linears(
    model: nn.Module,
    *,
    device: torch.device,
    dtype: torch.dtype,
    kept: Collection[str] = (),
    is_turned_too: bool = False,
) -> list[Fp8Linear]:
    """Replace the linear layers inside the backbone, but for those named in `kept`, by layers in float8 on `device`.

    They compute in `dtype`, and what is kept comes to `device` in it.
    One layer at a time, so that a model on the CPU arrives on the GPU without ever lying there whole. `is_turned_too`:
    keep the copy that the gradient of the input reads, another byte a weight, instead of turning it at every use.
    """
    is_supported = fp8.why_emulated(device, dtype) is None
    layers = []
    for name in linear_names(model):
        parent, _, last = name.rpartition(".")
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        if name in kept:
            linear.to(device, dtype)
            continue
        is_real = is_supported and not any(size % fp8.MULTIPLE for size in linear.weight.shape)
        weight = fp8.quantize_weight(linear.weight.to(device, dtype), is_real=is_real, is_turned_too=is_turned_too)
        bias_O = None if linear.bias is None else linear.bias.to(device, dtype)
        layer = Fp8Linear(weight, bias_O).train(linear.training)
        setattr(model.get_submodule(parent), last, layer)
        layers.append(layer)
    return layers


def describe(model: nn.Module, *, num_kept: int = 0) -> str | None:
    """How many layers are in float8, whether really so, and how many are not; None where there was nothing to round."""
    layers = [module for module in model.modules() if isinstance(module, Fp8Linear)]
    reasons = [_why_emulated(layer, _dtype_of(model)) for layer in layers if not layer.fp8_weight.is_real]
    num_real = len(layers) - len(reasons)
    parts = [f"float8 (e4m3, scales per row) in {num_real} linear layers"] if num_real else []
    if reasons:
        parts.append(f"float8 emulated in {len(reasons)} linear layers: {reasons[0]}")
    if num_kept:
        parts.append(f"{num_kept} linear layers are not rounded, which would cost more than {BUDGET:.1%} of the loss")
    return "; ".join(parts) or None


def _why_emulated(layer: Fp8Linear, dtype: torch.dtype) -> str:
    sizes = f"{layer.out_features} x {layer.in_features} is no multiple of {fp8.MULTIPLE}"
    return fp8.why_emulated(layer.weight.device, dtype) or sizes


def _dtype_of(model: Any) -> torch.dtype:
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return dtype
