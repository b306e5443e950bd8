"""Cases on which the Triton kernels are compared with torch, in Triton's interpreter and on a GPU alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from whet.kernels import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS = ((1, 8), (7, 24), (2, 5, 48), (33, 576), (3, 4096), (17, 1))
"""one row; widths that are no power of two; several blocks of rows, the last one short; SmolLM2's and Llama's widths"""
HEADS = ((1, 1, 1, 2), (5, 3, 1, 6), (33, 4, 2, 16), (4, 9, 3, 64), (2, 32, 8, 128))
"""tokens, query heads, key heads, head dimension"""
EPS = 1e-2  # large, so that a forgotten eps shows


def draw(*shape: int, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Tensor:
    """Normal numbers, rounded to `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


def gradients(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], grads: Sequence[Tensor]
) -> list[Tensor]:
    """The outputs of `function` and the gradients of all its inputs."""
    leaves = [each.detach().requires_grad_() for each in inputs]  # not cloned: strides stay
    outs = function(*leaves)
    given = [grad.to(out.dtype) for out, grad in zip(outs, grads, strict=True)]
    return [out.detach() for out in outs] + list(torch.autograd.grad(outs, leaves, given))


def compare(
    function: Callable[..., Sequence[Tensor]], textbook: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor],
    grads: Sequence[Tensor], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Values and gradients through the kernels are as near to the textbook's in float64 as those of our torch code."""
    truth = gradients(textbook, [each.double() for each in inputs], [each.double() for each in grads])
    monkeypatch.delenv("WHET_TRITON", raising=False)
    ours = gradients(function, inputs, grads)
    monkeypatch.setenv("WHET_TRITON", "off")
    torchs = gradients(function, inputs, grads)
    for got, other, true in zip(ours, torchs, truth, strict=True):
        assert got.dtype == other.dtype and got.shape == other.shape
        error, allowed = (got.double() - true).norm(), (other.double() - true).norm()
        # 5 % for the luck of roundings, and some roundings of float32 where torch has none. Triton's interpreter cuts
        # bfloat16 off instead of rounding it, up to a whole last place of 8 bits a time
        is_cut = got.device.type == "cpu" and torch.bfloat16 in {each.dtype for each in (got, *inputs)}
        slack = 2.0**-6 if is_cut else 5e-7
        assert error <= 1.05 * allowed + slack * true.norm(), f"{float(error)}, torch's is {float(allowed)}"


def add_and_norm(x: Tensor, residual: Tensor, weight_E: Tensor) -> tuple[Tensor, Tensor]:
    """h = x + residual and its RMS norm, in torch's own arithmetic."""
    h = x + residual
    return h, reference.rms_norm(h, weight_E, EPS)
