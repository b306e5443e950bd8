"""Products of frozen linear layers in float8: y = Q(x) W^T and dx = Q(dy) W, with W rounded once and kept.

The format is e4m3 (Micikevicius et al., FP8 Formats for Deep Learning, arXiv:2209.05433, section 3): 4 significant
bits, at most 448. Each row has a scale, the smallest power of two with which the row fits. Powers of two make every
scaling exact: what is rounded is rounded once, and a rounded number times its scale is a bfloat16 number.

W [O, I] is held once, with a scale s per output row, and serves both products. Forward, s multiplies what comes out. In
the gradient of the input it stands inside the sum, so it goes into dy before that is rounded:

    y  = Q(x) (s q)^T        dx = Q(dy s^T) q        W = s q, Q rounds each row

dx is the gradient of y with Q taken for the identity (straight through), and with dy rounded too.

Two forms compute the same up to the order of sums. Real: q is kept, a byte a weight, and torch._scaled_mm multiplies
(NVIDIA, compute capability 9.0 on). Emulated, everywhere else: W = s q is kept in the dtype of the layer, and the
products of the rounded numbers run in that dtype, without further rounding in bfloat16 and wider.

Shape letters: T tokens or rows, E columns, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from whet.kernels import triton_support

LARGEST = 448.0
"""of e4m3; what lies beyond becomes NaN"""
SMALLEST_NORMAL = 2.0**-6
CAPABILITY = (9, 0)
"""NVIDIA's Hopper: the first whose float8 products take a scale per row"""
MULTIPLE = 16
"""the sizes of a real layer are multiples of this; the number of tokens is free"""
_SMALLEST_SCALE = 2.0**-126
_EXPONENT_BITS = 0x7F800000
_MANTISSA_BITS = 0x007FFFFF


class Fp8Weight(NamedTuple):
    """A rounded weight. Real: O I + 4 O bytes, and O I more where `bytes_IO` is kept; emulated: as the layer had."""

    values_OI: Tensor
    """real: the bytes of q (uint8); emulated: W = s q in the dtype of the layer"""
    scale_O1: Tensor
    """s, float32"""
    bytes_IO: Tensor | None = None
    """real: q the other way round, in which dx reads it; None: turned for each product"""

    @property
    def is_real(self) -> bool:
        """Whether q itself is kept, for torch._scaled_mm."""
        return self.values_OI.dtype == torch.uint8


def quantize_rows(x_TE: Tensor) -> tuple[Tensor, Tensor]:
    """(q [T, E] in e4m3, scale [T, 1] in float32): x is q * scale up to rounding to nearest even.

    The scale is the smallest power of two with |x| / scale <= 448, but at least the smallest normal float32, and 1 for
    a row of zeros: no finite number is lost in q. A row that is not finite does not come out finite.
    """
    x_TE = x_TE.float()
    scale_T1 = _scales(x_TE)
    return (x_TE / scale_T1).to(torch.float8_e4m3fn), scale_T1


def round_rows(x_TE: Tensor, column_scale_E: Tensor | None = None) -> Tensor:
    """q * scale of `quantize_rows` in the dtype of x (bfloat16 or wider), without the slow way through float8.

    With `column_scale` (powers of two) the rows are rounded times it, and come out divided by it again.
    """
    values_TE = x_TE.float() if column_scale_E is None else x_TE.float() * column_scale_E
    scale_T1 = _scales(values_TE)
    values_TE = values_TE * scale_T1.reciprocal()
    # a number to which 2^20 times its own power of two (times 1.5, for the sign) is added keeps 4 bits
    power_TE = (values_TE.view(torch.int32) & _EXPONENT_BITS).view(torch.float32)
    shift_TE = power_TE.clamp_min_(SMALLEST_NORMAL).mul_(1.5 * 2**20)
    values_TE.add_(shift_TE).sub_(shift_TE).mul_(scale_T1)
    if column_scale_E is not None:
        values_TE.div_(column_scale_E)
    return values_TE.to(x_TE.dtype)


def _scales(x_TE: Tensor) -> Tensor:
    largest_T1 = x_TE.abs().amax(dim=1, keepdim=True)
    # the next power of two: the exponent goes up by one if any bit of the mantissa is set
    least_T1 = (largest_T1 / LARGEST).clamp_min_(_SMALLEST_SCALE)
    bits_T1 = (least_T1.view(torch.int32) + _MANTISSA_BITS) & _EXPONENT_BITS
    return bits_T1.view(torch.float32).masked_fill(largest_T1 == 0, 1.0)


def quantize_weight(weight_OI: Tensor, *, is_real: bool, is_turned_too: bool = False) -> Fp8Weight:
    """A weight in one of the two forms; `is_turned_too`: a real one with the copy that dx reads."""
    q_OI, scale_O1 = quantize_rows(weight_OI)
    if not is_real:
        return Fp8Weight((q_OI.float() * scale_O1).to(weight_OI.dtype), scale_O1)
    bytes_OI = q_OI.view(torch.uint8)
    return Fp8Weight(bytes_OI, scale_O1, bytes_OI.T.contiguous() if is_turned_too else None)


def outputs(weights: Sequence[Fp8Weight], biases: Sequence[Tensor | None], x_TI: Tensor) -> list[Tensor]:
    """Each y [T, O] of layers that read the same x, which is rounded once."""
    rounded_TI = None if all(weight.is_real for weight in weights) else round_rows(x_TI)
    q_TI, scale_T1 = _quantized(x_TI) if any(weight.is_real for weight in weights) else (None, None)
    outs = []
    for weight, bias_O in zip(weights, biases, strict=True):
        if weight.is_real:
            assert q_TI is not None and scale_T1 is not None
            q_OI = weight.values_OI.view(torch.float8_e4m3fn)
            outs.append(_scaled_product(q_TI, scale_T1, q_OI, weight.scale_O1.view(1, -1), x_TI.dtype, bias_O))
        else:
            assert rounded_TI is not None
            outs.append(nn.functional.linear(rounded_TI, weight.values_OI, bias_O))
    return outs


def input_gradient(weights: Sequence[Fp8Weight], grads: Sequence[Tensor]) -> Tensor:
    """The gradient of the x [T, I] that all layers read, from those of their y [T, O]."""
    first, *others = (_input_gradient(weight, dy_TO) for weight, dy_TO in zip(weights, grads, strict=True))
    for other in others:
        first.add_(other)
    return first


def _input_gradient(weight: Fp8Weight, dy_TO: Tensor) -> Tensor:
    scale_O = weight.scale_O1.view(-1)
    if not weight.is_real:
        return round_rows(dy_TO, scale_O) @ weight.values_OI
    bytes_IO = weight.values_OI.T.contiguous() if weight.bytes_IO is None else weight.bytes_IO
    q_TO, scale_T1 = _quantized(dy_TO, scale_O)
    ones_1I = scale_T1.new_ones(1, len(bytes_IO))
    return _scaled_product(q_TO, scale_T1, bytes_IO.view(torch.float8_e4m3fn), ones_1I, dy_TO.dtype)


def _quantized(x_TE: Tensor, column_scale_E: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of x, or of x times a power of two for each column, by the fastest way that this machine has."""
    if triton_support.is_used(x_TE):
        from whet.kernels import triton_fp8

        return triton_fp8.quantize_rows(x_TE, column_scale_E)
    return quantize_rows(x_TE if column_scale_E is None else x_TE * column_scale_E.to(x_TE.dtype))


def _scaled_product(
    a_TE: Tensor, scale_T1: Tensor, b_NE: Tensor, scale_1N: Tensor, dtype: torch.dtype, bias_N: Tensor | None = None
) -> Tensor:  # fmt: skip
    """a b^T times both scales. Sums in float32: the fast ones of the tensor cores keep 14 bits."""
    return torch._scaled_mm(
        a_TE, b_NE.T, scale_a=scale_T1, scale_b=scale_1N, bias=bias_N, out_dtype=dtype, use_fast_accum=False
    )


def why_emulated(device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason for which layers of this dtype are emulated on this device; None where they are real."""
    if device.type != "cuda":
        return f"there are no float8 products on the device {device.type}"
    if dtype != torch.bfloat16:
        return f"float8 products come out in bfloat16, and the model computes in {str(dtype).removeprefix('torch.')}"
    return _why_no_product(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _why_no_product(device_index: int) -> str | None:
    if torch.version.hip is not None:
        return "float8 products are not tried on ROCm"
    capability = torch.cuda.get_device_capability(device_index)
    if capability < CAPABILITY:
        return "compute capability {}.{} has no float8 products with a scale per row".format(*capability)
    if not hasattr(torch, "_scaled_mm"):
        return f"torch {torch.__version__} has no float8 products"
    ones = torch.ones(2 * MULTIPLE, MULTIPLE, device=torch.device("cuda", device_index))
    weight = quantize_weight(ones, is_real=True)
    try:
        (tried,) = outputs([weight], [None], ones.bfloat16())
    except RuntimeError as error:
        return f"torch {torch.__version__} refused a float8 product: {str(error).splitlines()[0]}"
    return None if bool((tried == MULTIPLE).all()) else f"a float8 product of torch {torch.__version__} was wrong"
