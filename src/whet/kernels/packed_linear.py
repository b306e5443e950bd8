"""Linear layers for generation on CPUs: weights lie in the order in which oneDNN's products read them.

torch lays a weight out anew for every product; with few rows that costs nearly as much as the product. Laid out
once, a step of SmolLM2 takes 0.75 of the time at 16 rows and 0.86 at 64 (bfloat16, AVX-512 BF16, one thread). Layers
that read the same input are one product, and what follows a product is done while it is written. The results are
torch's own up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_COPY_BYTES = 4 * 2**30
"""The packed weights are a second copy while they last; larger models compute from the one they have."""


class Product(Protocol):
    """What one linear layer, or several side by side, make of their input: [..., I] -> [..., O]."""

    def __call__(self, x: Tensor) -> Tensor: ...
    def silu(self, x: Tensor) -> Tensor:
        """y * sigmoid(y) of the product y."""

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product, entry by entry times `other` [..., O]."""

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product plus `other` [..., O]."""


def products(groups: Sequence[Sequence[nn.Linear]], *, num_rows: int, is_packed: bool) -> list[Product]:
    """What each group of layers computes side by side, without gradients, for about `num_rows` rows at a time.

    The weights must not change as long as the products are used. Unless `is_packed`, and on other devices, in other
    formats than bfloat16 and float32, where oneDNN is missing, or where the weights are too large for a copy, the
    layers compute as they are.
    """
    linears = [linear for group in groups for linear in group]
    has_room = sum(linear.weight.nbytes for linear in linears) <= LARGEST_COPY_BYTES
    if is_packed and has_room and _has_packed_products() and all(_is_packable(linear) for linear in linears):
        return [_Packed(group, num_rows) for group in groups]
    return [_Plain(group) for group in groups]


def _has_packed_products() -> bool:
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )


def _is_packable(linear: nn.Linear) -> bool:
    return linear.weight.device.type == "cpu" and linear.weight.dtype in (torch.bfloat16, torch.float32)


class _Plain:
    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self._linears = linears

    def __call__(self, x: Tensor) -> Tensor:
        outs = [linear(x) for linear in self._linears]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)

    def silu(self, x: Tensor) -> Tensor:
        return functional.silu(self(x))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        return self(x) * other

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return self(x) + other


class _Packed:
    def __init__(self, linears: Sequence[nn.Linear], num_rows: int) -> None:
        weight_OI = torch.cat([linear.weight.detach() for linear in linears])
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI, num_rows)
        self._bias_O = None
        if any(linear.bias is not None for linear in linears):
            biases = [linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
                      for linear in linears]  # fmt: skip
            self._bias_O = torch.cat(biases)

    def __call__(self, x: Tensor) -> Tensor:
        return self._then("none", x)

    def silu(self, x: Tensor) -> Tensor:
        return self._then("swish", x)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        return self._with("mul", x, other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return self._with("add", x, other)

    def _then(self, function: str, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self._weight, self._bias_O, function, [], "")
        return out

    def _with(self, function: str, x: Tensor, other: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias_O, function)
        return out
