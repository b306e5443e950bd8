"""Linear layers for generation on CPUs: weights lie in the order in which oneDNN's products read them.

torch lays a weight out anew for every product; with few rows that costs nearly as much as the product. Laid out
once, a step of SmolLM2 takes 0.75 of the time at 16 rows and 0.86 at 64 (bfloat16, AVX-512 BF16, one thread). The
results are torch's own up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LARGEST_COPY_BYTES = 4 * 2**30
"""The packed weights are a second copy while they last; larger models compute from the one they have."""


class PackedLinear(nn.Module):
    """`linear` for about `num_rows` rows at a time, without gradients; [..., I] -> [..., O].

    `dtype` is what it computes in: the weights', or under autocast its narrower one.
    """

    def __init__(self, linear: nn.Linear, num_rows: int, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), num_rows)
        self._bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(self._dtype), self._packed, self._bias, "none", [], "")
        return out


@contextmanager
def packed_linears(model: nn.Module, *, num_rows: int) -> Iterator[int]:
    """Inside, the plain linear layers of this model instance are `PackedLinear`; yields how many.

    The weights must not change meanwhile. Adapted and quantized layers stay as they are; so does everything on other
    devices, in other formats than bfloat16 and float32, where oneDNN is missing, and where a copy would be too large.
    """
    found = _plain_linears(model) if _has_packed_products() else []
    if sum(linear.weight.nbytes for _, _, linear in found) > LARGEST_COPY_BYTES:
        found = []
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    try:
        for parent, name, linear in found:
            setattr(parent, name, PackedLinear(linear, num_rows, dtype or linear.weight.dtype))
        yield len(found)
    finally:
        for parent, name, linear in found:
            setattr(parent, name, linear)


def _has_packed_products() -> bool:
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )


def _plain_linears(module: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """(parent, name, layer); what PEFT has wrapped is not among them, nor what computes otherwise than its class."""
    found = []
    for name, child in module.named_children():
        if type(child) is not nn.Linear:
            found += [] if hasattr(child, "base_layer") else _plain_linears(child)
        elif (
            "forward" not in vars(child)
            and child.weight.device.type == "cpu"
            and child.weight.dtype in (torch.bfloat16, torch.float32)
        ):
            found.append((module, name, child))
    return found
