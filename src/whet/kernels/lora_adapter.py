"""The arithmetic of one frozen linear layer with its adapter, y = x W^T + s drop(x) A^T B^T, for all that compute it.

The base product is accumulated into in place; stored is the narrow h = drop(x) A^T, while the dropout mask is made
again in the backward pass. With dy the gradient of y and g = dy B:

    dB = s dy^T h        dA = s g^T drop(x)        dx = dy W + s drop'(g A)

An adapter that starts inside the base (PiSSA and its kin) has a start (A0, B0) that is taken off again:

    y = x W^T + s (drop(x) A^T B^T - x A0^T B0^T)

The two terms are far larger than their difference, so the difference is what is computed, with d = drop(x):

    B A d - B0 A0 x = B (A - A0) d + (B - B0) A0 d + B0 A0 (d - x)

At step 0 the first two terms are zeros and the third is absent without dropout: y is the base's to the last bit, in
any dtype; later the rounding of a bfloat16 product is relative to what was learned. A0 and B0 are kept in the dtype of
A and B (float32 or wider), in which A - A0 has no rounding to speak of.

Products run in the input's dtype with the accumulation width of the hardware; A, B and their gradients stay float32
(the scheme of autocast). In float32 and float64 the result is PEFT's own up to the order of sums. What is narrow lies
with its few rows first: products written that way take half to a sixth of the time on CPUs.

Shape letters: T tokens, I inputs, O outputs, R rank, K = R, or 2R with a start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from whet.kernels import fp8
from whet.kernels.dropout import Mask, StatelessDropout
from whet.kernels.fp8 import Fp8Weight


class Tensors(NamedTuple):
    """One layer's tensors, in the order in which the autograd functions take and save them. A and B alone train."""

    weight_OI: Tensor
    bias_O: Tensor | None
    a_RI: Tensor
    b_OR: Tensor
    start_a_RI: Tensor | None = None
    minus_start_b_OR: Tensor | None = None
    scale_O1: Tensor | None = None
    """the base in float8: the scale of its rows, where `weight_OI` is the first part of an Fp8Weight"""
    bytes_IO: Tensor | None = None

    @property
    def fp8_weight(self) -> Fp8Weight | None:
        """The weight of a base in float8."""
        return None if self.scale_O1 is None else Fp8Weight(self.weight_OI, self.scale_O1, self.bytes_IO)

    def factors(self, dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """A and B; with a start [A - A0; A0] and [B, B - B0], whose product is B A - B0 A0. The first one times
        `scale`, both narrowed last."""
        down_KI, up_OK = self.a_RI, self.b_OR
        if self.start_a_RI is not None and self.minus_start_b_OR is not None:
            down_KI = torch.cat([self.a_RI - self.start_a_RI, self.start_a_RI])
            up_OK = torch.cat([self.b_OR, self.b_OR + self.minus_start_b_OR], dim=1)
        return (down_KI if scale == 1.0 else down_KI * scale).to(dtype), up_OK.to(dtype)

    def start(self, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """A0 and -B0."""
        if self.start_a_RI is None or self.minus_start_b_OR is None:
            return None
        return self.start_a_RI.to(dtype), self.minus_start_b_OR.to(dtype)


@dataclass(frozen=True, slots=True)
class Setting:
    """The numbers of one adapter in one forward pass, and its mask where it drops."""

    scale: float
    mask: Mask | None = None
    keep_probability: float = 1.0


class Layer(NamedTuple):
    """One frozen linear layer and its adapter, as a forward pass finds them."""

    tensors: Tensors
    setting: Setting


def layers_of(tensors: Sequence[Tensor | None], settings: Sequence[Setting]) -> list[Layer]:
    """The layers whose tensors stand one after the other in `tensors`."""
    size = len(Tensors._fields)
    return [Layer(Tensors(*tensors[i * size : (i + 1) * size]), setting) for i, setting in enumerate(settings)]  # type: ignore[arg-type]


def setting_of(scale: float, dropout: StatelessDropout | None, weight_OI: Tensor) -> Setting:
    """The mask is the one that `dropout` gives for the rows now in the model."""
    if dropout is None or not dropout.training or dropout.p == 0:
        return Setting(scale)
    return Setting(scale, dropout.present_mask(weight_OI.shape[1], weight_OI.device), 1.0 - dropout.p)


def forward(layers: Sequence[Layer], x_TI: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Of layers that read the same x: each one's y [T, O], and the narrow h [K, T] that the gradient of its B wants."""
    factors = [layer.tensors.factors(x_TI.dtype) for layer in layers]
    narrow = _narrow(layers, x_TI, [down_KI for down_KI, _ in factors])
    outs = _base_outputs(layers, x_TI)
    for y_TO, (tensors, setting), (_, up_OK), h_KT in zip(outs, layers, factors, narrow, strict=True):
        y_TO.addmm_(h_KT.T, up_OK.T, alpha=setting.scale)
        start = tensors.start(x_TI.dtype)
        if start is not None and setting.mask is not None:
            start_a_RI, minus_start_b_OR = start
            noise_RT = h_KT[len(start_a_RI) :] - start_a_RI @ x_TI.T
            y_TO.addmm_(noise_RT.T, minus_start_b_OR.T, alpha=-setting.scale)
    return outs, narrow


def _base_outputs(layers: Sequence[Layer], x_TI: Tensor) -> list[Tensor]:
    """Each x W^T [T, O], to be added to in place."""
    if (weights := _fp8_weights(layers)) is not None:
        return fp8.outputs(weights, [layer.tensors.bias_O for layer in layers], x_TI)
    return [nn.functional.linear(x_TI, tensors.weight_OI, tensors.bias_O) for tensors, _ in layers]


def _base_input_gradient(layers: Sequence[Layer], grads: Sequence[Tensor]) -> Tensor:
    """The sum of dy W [T, I], to be added to in place."""
    if (weights := _fp8_weights(layers)) is not None:
        return fp8.input_gradient(weights, grads)
    dx_TI = grads[0] @ layers[0].tensors.weight_OI
    for layer, dy_TO in zip(layers[1:], grads[1:], strict=True):
        dx_TI.addmm_(dy_TO, layer.tensors.weight_OI)
    return dx_TI


def _fp8_weights(layers: Sequence[Layer]) -> list[Fp8Weight] | None:
    """None where the layers are not in float8, which those of one function all are or none is."""
    weights = [weight for layer in layers if (weight := layer.tensors.fp8_weight) is not None]
    assert len(weights) in (0, len(layers))
    return weights or None


def _narrow(layers: Sequence[Layer], x_TI: Tensor, downs: Sequence[Tensor]) -> list[Tensor]:
    if not _has_masks(layers):
        return list((torch.cat(list(downs)) @ x_TI.T).split([len(down_KI) for down_KI in downs]))
    return [
        (down_KI @ _zero_dropped(x_TI, setting).T).div_(setting.keep_probability)
        for (_, setting), down_KI in zip(layers, downs, strict=True)
    ]


def narrow_gradients(layers: Sequence[Layer], grads: Sequence[Tensor]) -> list[Tensor]:
    """Each layer's g [K, T] from the gradient of its y, which both of the next functions want."""
    return [
        layer.tensors.factors(dy_TO.dtype)[1].T @ dy_TO.T for layer, dy_TO in zip(layers, grads, strict=True)
    ]  # fmt: skip


def factor_gradients(
    layers: Sequence[Layer], grads: Sequence[Tensor], x_TI: Tensor, narrow: Sequence[Tensor],
    narrow_grads: Sequence[Tensor],
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of A and B, in their own dtype, in the places that the tensors of all layers have in a row."""
    learned = [g_KT[: len(layer.tensors.a_RI)] for layer, g_KT in zip(layers, narrow_grads, strict=True)]
    if _has_masks(layers):
        of_a = [g_RT @ _zero_dropped(x_TI, layer.setting) for layer, g_RT in zip(layers, learned, strict=True)]
    else:
        of_a = list((torch.cat(learned) @ x_TI).split([len(g_RT) for g_RT in learned]))
    of_tensors: list[Tensor | None] = []
    for ((_, _, a_RI, b_OR, *_), setting), dy_TO, h_KT, grad_a in zip(layers, grads, narrow, of_a, strict=True):
        rank = len(a_RI)
        learned_RT = h_KT if len(h_KT) == rank else h_KT[:rank] + h_KT[rank:]
        grad_b = (learned_RT @ dy_TO).T.to(b_OR.dtype).mul_(setting.scale)
        grad_a = grad_a.to(a_RI.dtype).mul_(setting.scale / setting.keep_probability)
        of_tensors += [None, None, grad_a, grad_b, *[None] * (len(Tensors._fields) - 4)]
    return of_tensors


def input_gradient(layers: Sequence[Layer], grads: Sequence[Tensor], narrow_grads: Sequence[Tensor]) -> Tensor:
    """The gradient of the x that all layers read, accumulated into one tensor."""
    dx_TI = _base_input_gradient(layers, grads)
    if not _has_masks(layers):
        scaled = [layer.tensors.factors(dx_TI.dtype, layer.setting.scale)[0] for layer in layers]
        return dx_TI.addmm_(torch.cat(list(narrow_grads)).T, torch.cat(scaled))
    for layer, dy_TO, g_KT in zip(layers, grads, narrow_grads, strict=True):
        _add_dropped_input_gradient(dx_TI, layer, dy_TO, g_KT)
    return dx_TI


def _add_dropped_input_gradient(dx_TI: Tensor, layer: Layer, dy_TO: Tensor, g_KT: Tensor) -> None:
    tensors, setting = layer
    down_KI, _ = tensors.factors(dx_TI.dtype)
    if (start := tensors.start(dx_TI.dtype)) is not None:
        start_a_RI, minus_start_b_OR = start
        minus_start_g_RT = minus_start_b_OR.T @ dy_TO.T
        g_KT = torch.cat([g_KT[: len(start_a_RI)], g_KT[len(start_a_RI) :] - minus_start_g_RT])
        dx_TI.addmm_(minus_start_g_RT.T, start_a_RI, alpha=setting.scale)
    through_TI = g_KT.T @ down_KI
    if setting.mask is not None:
        setting.mask.zero_dropped(through_TI, out=through_TI)
    dx_TI.add_(through_TI, alpha=setting.scale / setting.keep_probability)


def _has_masks(layers: Sequence[Layer]) -> bool:
    """Whether a layer drops: layers that read the same x then read something different of it."""
    return any(layer.setting.mask is not None for layer in layers)


def _zero_dropped(x_TI: Tensor, setting: Setting) -> Tensor:
    return x_TI if setting.mask is None else setting.mask.zero_dropped(x_TI)
