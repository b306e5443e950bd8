"""RMS norm in Triton, alone or behind the addition of a residual; `norm.py` has the formulas and the autograd function.

A program of the forward kernel holds one row; one of the backward kernel walks through a few, so that it can add up
its part of the weight's gradient in registers. Parts are summed by torch: no atomics, the same bits every time.

Shape letters: T tokens, E hidden size, P programs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from whet.kernels.triton_support import next_power_of_two, num_warps, with_unit_stride

ROWS_PER_PROGRAM = 16
"""of the backward kernel where the weight trains: its parts take E / 16 float32 numbers per token"""


@triton.jit
def _forward_kernel(
    x_ptr, x_stride, residual_ptr, residual_stride, weight_ptr, sum_ptr, y_ptr, r_ptr, num_columns, eps,
    BLOCK: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """y = w round(h r), h = x or round(x + residual), r = (mean(h^2) + eps)^(-1/2)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_columns
    h = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0)
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + row * residual_stride + column, mask=inside, other=0.0)
        h = (h.to(tl.float32) + residual.to(tl.float32)).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + row * num_columns + column, h, mask=inside)
    wide = h.to(tl.float32)
    r = 1.0 / tl.sqrt_rn(tl.sum(wide * wide, axis=0) / num_columns + eps)
    tl.store(r_ptr + row, r)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    y = weight * (wide * r).to(h.dtype).to(tl.float32)
    tl.store(y_ptr + row * num_columns + column, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    dy_ptr, dy_stride, h_ptr, h_stride, r_ptr, weight_ptr, dsum_ptr, dsum_stride, dh_ptr, dweight_ptr, num_rows,
    num_columns, BLOCK: tl.constexpr, ROWS: tl.constexpr, HAS_DSUM: tl.constexpr, WEIGHT_TRAINS: tl.constexpr,
):  # fmt: skip
    """dh = r (g - h r^2 sum(g h) / E) + dsum with g = dy w; a program's part of dw = sum over rows of dy round(h r)."""
    program = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < num_columns
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    dweight = tl.zeros([BLOCK], dtype=tl.float32)
    for i in range(ROWS):
        row = (program * ROWS + i).to(tl.int64)
        valid = inside & (row < num_rows)
        dy = tl.load(dy_ptr + row * dy_stride + column, mask=valid, other=0.0).to(tl.float32)
        h = tl.load(h_ptr + row * h_stride + column, mask=valid, other=0.0)
        r = tl.load(r_ptr + row, mask=row < num_rows, other=0.0)
        wide, g = h.to(tl.float32), dy * weight
        dh = r * (g - wide * (r * r * (tl.sum(g * wide, axis=0) / num_columns)))
        if HAS_DSUM:
            dh += tl.load(dsum_ptr + row * dsum_stride + column, mask=valid, other=0.0).to(tl.float32)
        tl.store(dh_ptr + row * num_columns + column, dh.to(dh_ptr.dtype.element_ty), mask=valid)
        if WEIGHT_TRAINS:
            dweight += dy * (wide * r).to(h.dtype).to(tl.float32)
    if WEIGHT_TRAINS:
        tl.store(dweight_ptr + program.to(tl.int64) * num_columns + column, dweight, mask=inside)


def forward(x_TE: Tensor, residual_TE: Tensor | None, weight_E: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(h, y, r): h = x + residual (x itself without one), y = w h r, and r [T, 1] in float32. Rows may be strided."""
    x_TE = with_unit_stride(x_TE)
    residual = x_TE if residual_TE is None else with_unit_stride(residual_TE)
    num_rows, num_columns = x_TE.shape
    h_TE = x_TE
    if residual_TE is not None:
        wide = torch.promote_types(x_TE.dtype, residual.dtype)
        h_TE = torch.empty(num_rows, num_columns, dtype=wide, device=x_TE.device)
    wide = torch.promote_types(h_TE.dtype, weight_E.dtype)
    y_TE = torch.empty(num_rows, num_columns, dtype=wide, device=x_TE.device)
    r_T1 = torch.empty(num_rows, 1, dtype=torch.float32, device=x_TE.device)
    block = next_power_of_two(num_columns)
    _forward_kernel[(num_rows,)](
        x_TE, x_TE.stride(0), residual, residual.stride(0), weight_E.contiguous(), h_TE, y_TE, r_T1, num_columns, eps,
        BLOCK=block, HAS_RESIDUAL=residual_TE is not None, num_warps=num_warps(block),
    )  # fmt: skip
    return h_TE, y_TE, r_T1


def backward(
    dy_TE: Tensor,
    h_TE: Tensor,
    r_T1: Tensor,
    weight_E: Tensor,
    dh_TE: Tensor | None = None,
    *,
    weight_trains: bool,
) -> tuple[Tensor, Tensor | None]:
    """(gradient of h, gradient of the weight or None). `dh_TE`: what reached h on its other way, added in float32."""
    dy_TE, h_TE = with_unit_stride(dy_TE), with_unit_stride(h_TE)
    other = dy_TE if dh_TE is None else with_unit_stride(dh_TE)
    num_rows, num_columns = h_TE.shape
    rows = ROWS_PER_PROGRAM if weight_trains else 1
    num_programs = -(-num_rows // rows)
    grad_h = torch.empty(num_rows, num_columns, dtype=h_TE.dtype, device=h_TE.device)
    parts_PE = r_T1.new_empty(num_programs if weight_trains else 0, num_columns)
    block = next_power_of_two(num_columns)
    _backward_kernel[(num_programs,)](
        dy_TE, dy_TE.stride(0), h_TE, h_TE.stride(0), r_T1, weight_E.contiguous(), other, other.stride(0), grad_h,
        parts_PE, num_rows, num_columns, BLOCK=block, ROWS=rows, HAS_DSUM=dh_TE is not None,
        WEIGHT_TRAINS=weight_trains, num_warps=num_warps(block),
    )  # fmt: skip
    return grad_h, parts_PE.sum(0).to(weight_E.dtype) if weight_trains else None
