"""SwiGLU in Triton: silu(gate) * up and its gradients, each in one pass; `swiglu.py` has the formulas.

Shape letters: T packed tokens, F channels of the feed-forward layer.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from whet.kernels.triton_support import with_unit_stride

BLOCK_WIDTH = 1024


@triton.jit
def _forward_kernel(gate_ptr, gate_stride, up_ptr, up_stride, h_ptr, num_columns, BLOCK: tl.constexpr):
    """h = round(silu(gate)) up."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < num_columns
    gate = tl.load(gate_ptr + row * gate_stride + column, mask=inside, other=0.0)
    up = tl.load(up_ptr + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    wide = gate.to(tl.float32)
    silu = (wide * tl.sigmoid(wide)).to(gate.dtype).to(tl.float32)
    tl.store(h_ptr + row * num_columns + column, (silu * up).to(h_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    dh_ptr, dh_stride, gate_ptr, gate_stride, up_ptr, up_stride, h_ptr, dgate_ptr, dup_ptr, num_columns,
    BLOCK: tl.constexpr, MAKES_H: tl.constexpr,
):  # fmt: skip
    """dgate = dh up s (1 + gate (1 - s)) with s = sigmoid(gate), dup = dh silu(gate), and h once more if wanted."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < num_columns
    place = row * num_columns + column
    dh = tl.load(dh_ptr + row * dh_stride + column, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * gate_stride + column, mask=inside, other=0.0)
    up = tl.load(up_ptr + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    wide = gate.to(tl.float32)
    sigmoid = tl.sigmoid(wide)
    silu = (wide * sigmoid).to(gate.dtype).to(tl.float32)
    dgate = dh * up * sigmoid * (1.0 + wide * (1.0 - sigmoid))
    tl.store(dgate_ptr + place, dgate.to(dgate_ptr.dtype.element_ty), mask=inside)
    tl.store(dup_ptr + place, (dh * silu).to(dup_ptr.dtype.element_ty), mask=inside)
    if MAKES_H:
        tl.store(h_ptr + place, (silu * up).to(h_ptr.dtype.element_ty), mask=inside)


def forward(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """h of the same shape (any leading one), contiguous. Rows may lie at any distance, as those of one product do."""
    h_TF = torch.empty(gate_TF.shape, dtype=gate_TF.dtype, device=gate_TF.device)
    gate_TF, up_TF = _rows(gate_TF), _rows(up_TF)
    num_rows, num_columns = gate_TF.shape
    _forward_kernel[(num_rows, triton.cdiv(num_columns, BLOCK_WIDTH))](
        gate_TF, gate_TF.stride(0), up_TF, up_TF.stride(0), h_TF, num_columns, BLOCK=BLOCK_WIDTH
    )
    return h_TF


def backward(dh_TF: Tensor, gate_TF: Tensor, up_TF: Tensor) -> tuple[Tensor, Tensor]:
    """(dgate, dup), contiguous; dh is left alone."""
    dgate_TF = torch.empty(gate_TF.shape, dtype=gate_TF.dtype, device=gate_TF.device)
    dup_TF = torch.empty_like(dgate_TF)
    _launch_backward(dh_TF, gate_TF, up_TF, None, dgate_TF, dup_TF)
    return dgate_TF, dup_TF


def backward_into(dh_TF: Tensor, gate_TF: Tensor, up_TF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(h, dgate, dup); dgate takes the memory of a contiguous dh: every entry is read before it is written."""
    dh_TF = dh_TF.contiguous()
    h_TF, dup_TF = torch.empty_like(dh_TF), torch.empty_like(dh_TF)
    _launch_backward(dh_TF, gate_TF, up_TF, h_TF, dh_TF, dup_TF)
    return h_TF, dh_TF, dup_TF


def _launch_backward(
    dh_TF: Tensor, gate_TF: Tensor, up_TF: Tensor, h_TF: Tensor | None, dgate_TF: Tensor, dup_TF: Tensor
) -> None:
    dh_TF, gate_TF, up_TF = _rows(dh_TF), _rows(gate_TF), _rows(up_TF)
    num_rows, num_columns = gate_TF.shape
    _backward_kernel[(num_rows, triton.cdiv(num_columns, BLOCK_WIDTH))](
        dh_TF, dh_TF.stride(0), gate_TF, gate_TF.stride(0), up_TF, up_TF.stride(0), dup_TF if h_TF is None else h_TF,
        dgate_TF, dup_TF, num_columns, BLOCK=BLOCK_WIDTH, MAKES_H=h_TF is not None,
    )  # fmt: skip


def _rows(x: Tensor) -> Tensor:
    return with_unit_stride(x.reshape(-1, x.shape[-1]))
