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

from whet.kernels.dropout import Mask, StatelessDropout


class Tensors(NamedTuple):
    """One layer's tensors, in the order in which the autograd functions take and save them. A and B alone train."""

    weight_OI: Tensor
    bias_O: Tensor | None
    a_RI: Tensor
    b_OR: Tensor
    start_a_RI: Tensor | None = None
    minus_start_b_OR: Tensor | None = None

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A and B; with a start [A - A0; A0] and [B, B - B0], whose product is B A - B0 A0. Narrowed last."""
        a_RI, b_OR = self.a_RI, self.b_OR
        if self.start_a_RI is None or self.minus_start_b_OR is None:
            return a_RI.to(dtype), b_OR.to(dtype)
        down_KI = torch.cat([a_RI - self.start_a_RI, self.start_a_RI]).to(dtype)
        return down_KI, torch.cat([b_OR, b_OR + self.minus_start_b_OR], dim=1).to(dtype)

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


def forward(layer: Layer, x_TI: Tensor) -> tuple[Tensor, Tensor]:
    """y [T, O] and the narrow h [K, T], which the gradient of B wants."""
    tensors, setting = layer
    y_TO = nn.functional.linear(x_TI, tensors.weight_OI, tensors.bias_O)
    down_KI, up_OK = tensors.factors(x_TI.dtype)
    h_KT = down_KI @ _zero_dropped(x_TI, setting).T
    if setting.mask is not None:
        h_KT /= setting.keep_probability
    y_TO.addmm_(h_KT.T, up_OK.T, alpha=setting.scale)
    start = tensors.start(x_TI.dtype)
    if start is not None and setting.mask is not None:
        start_a_RI, minus_start_b_OR = start
        noise_RT = h_KT[len(start_a_RI) :] - start_a_RI @ x_TI.T
        y_TO.addmm_(noise_RT.T, minus_start_b_OR.T, alpha=-setting.scale)
    return y_TO, h_KT


def narrow_gradient(layer: Layer, dy_TO: Tensor) -> Tensor:
    """g [K, T], which both of the next functions want."""
    return layer.tensors.factors(dy_TO.dtype)[1].T @ dy_TO.T


def factor_gradients(layer: Layer, dy_TO: Tensor, x_TI: Tensor, h_KT: Tensor, g_KT: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of A and B, in their own dtype."""
    (_, _, a_RI, b_OR, *_), setting = layer
    rank = len(a_RI)
    learned_RT = h_KT if len(h_KT) == rank else h_KT[:rank] + h_KT[rank:]
    grad_a = (g_KT[:rank] @ _zero_dropped(x_TI, setting)).to(a_RI.dtype)
    grad_b = (learned_RT @ dy_TO).T.to(b_OR.dtype)
    return grad_a.mul_(setting.scale / setting.keep_probability), grad_b.mul_(setting.scale)


def input_gradient(layer: Layer, dy_TO: Tensor, g_KT: Tensor, dx_TI: Tensor | None = None) -> Tensor:
    """The gradient of x; added in place to `dx_TI`, what other layers make of the gradient of the same x."""
    tensors, setting = layer
    down_KI, _ = tensors.factors(dy_TO.dtype)
    dx_TI = dy_TO @ tensors.weight_OI if dx_TI is None else dx_TI.addmm_(dy_TO, tensors.weight_OI)
    if setting.mask is None:
        return dx_TI.addmm_(g_KT.T, down_KI, alpha=setting.scale)
    if (start := tensors.start(dy_TO.dtype)) is not None:
        start_a_RI, minus_start_b_OR = start
        minus_start_g_RT = minus_start_b_OR.T @ dy_TO.T
        g_KT = torch.cat([g_KT[: len(start_a_RI)], g_KT[len(start_a_RI) :] - minus_start_g_RT])
        dx_TI.addmm_(minus_start_g_RT.T, start_a_RI, alpha=setting.scale)
    through_TI = g_KT.T @ down_KI
    setting.mask.zero_dropped(through_TI, out=through_TI)
    return dx_TI.add_(through_TI, alpha=setting.scale / setting.keep_probability)


def backward(
    layers: Sequence[Layer], grads: Sequence[Tensor], x_TI: Tensor, narrow: Sequence[Tensor], *, needs_dx: bool
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Of layers that read the same x: its gradient, and those of their tensors in order. `narrow` is of `forward`."""
    dx_TI: Tensor | None = None
    of_tensors: list[Tensor | None] = []
    for layer, dy_TO, h_KT in zip(layers, grads, narrow, strict=True):
        g_KT = narrow_gradient(layer, dy_TO)
        of_tensors += in_slots(*factor_gradients(layer, dy_TO, x_TI, h_KT, g_KT))
        if needs_dx:
            dx_TI = input_gradient(layer, dy_TO, g_KT, dx_TI)
    return dx_TI, of_tensors


def in_slots(grad_a_RI: Tensor, grad_b_OR: Tensor) -> tuple[Tensor | None, ...]:
    """One layer's gradients in the order of its tensors."""
    return None, None, grad_a_RI, grad_b_OR, None, None


def _zero_dropped(x_TI: Tensor, setting: Setting) -> Tensor:
    return x_TI if setting.mask is None else setting.mask.zero_dropped(x_TI)
