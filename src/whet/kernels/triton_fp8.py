"""Rows rounded to float8 e4m3 in one Triton pass; `fp8.quantize_rows` says in torch what comes out.

Scales are powers of two, so that every scaling is exact and a number is rounded once.

Shape letters: T rows, E columns.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from whet.kernels.triton_support import next_power_of_two, num_warps, with_unit_stride


@triton.jit
def _quantize_kernel(
    x_ptr, x_stride, column_scale_ptr, q_ptr, scale_ptr, num_columns,
    BLOCK: tl.constexpr, HAS_COLUMN_SCALE: tl.constexpr,
):  # fmt: skip
    """One row: scale = the smallest power of two with |x| / scale <= 448, q = x / scale to nearest even."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_columns
    x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_COLUMN_SCALE:
        x *= tl.load(column_scale_ptr + column, mask=inside, other=0.0)
    largest = tl.max(tl.abs(x), axis=0)
    # 448 is 1.75 * 2^8: the exponent is that of the largest less 8, one more where its mantissa is above 1.75
    exponent = (((largest.to(tl.int32, bitcast=True) + 0x1FFFFF) >> 23) & 0xFF) - 8
    exponent = tl.where(largest > 0.0, tl.maximum(exponent, 1), 127)
    scale = (exponent << 23).to(tl.float32, bitcast=True)
    q = x * ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    # Triton's conversion rounds otherwise in its interpreter than on a GPU: it is given numbers of e4m3. Beside 2^20
    # times its own power of two (times 1.5, for the sign) a float32 keeps 4 bits of a number; 2^-6 is the smallest
    # normal one.
    power = (q.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    shift = tl.maximum(power, 0.015625) * 1572864.0
    q = (q + shift) - shift
    tl.store(q_ptr + row * num_columns + column, q.to(tl.float8e4nv), mask=inside)
    # a maximum passes over NaN; a sum does not
    tl.store(scale_ptr + row, scale + tl.sum(x * 0.0, axis=0))


def quantize_rows(x_TE: Tensor, column_scale_E: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(q [T, E] in e4m3, scale [T, 1] in float32) of x, or of x times a power of two (float32) for each column.

    The scale of a row that is not finite is NaN. Rows may lie at any distance.
    """
    x_TE = with_unit_stride(x_TE)
    num_rows, num_columns = x_TE.shape
    q_TE = torch.empty(num_rows, num_columns, dtype=torch.float8_e4m3fn, device=x_TE.device)
    scale_T1 = torch.empty(num_rows, 1, dtype=torch.float32, device=x_TE.device)
    block = next_power_of_two(num_columns)
    _quantize_kernel[(num_rows,)](
        x_TE, x_TE.stride(0), x_TE if column_scale_E is None else column_scale_E.contiguous(), q_TE, scale_T1,
        num_columns, BLOCK=block, HAS_COLUMN_SCALE=column_scale_E is not None, num_warps=num_warps(block),
    )  # fmt: skip
    return q_TE, scale_T1
