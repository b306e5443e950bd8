"""Rotary position embedding of queries and keys in one Triton launch; `rotary.py` has the formulas.

A program turns all heads of one token, so that its angles are read once. The backward pass is the same kernel with
the sines of the halves exchanged and their signs turned.

Shape letters: T packed tokens, H query heads, K key heads, D head dimension.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from whet.kernels.triton_support import next_power_of_two, num_warps, with_unit_stride


@triton.jit
def _turn_heads(
    x_ptr, y_ptr, head_stride, cos0, cos1, of_second, of_first, num_heads, half,
    HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """y0 = x0 cos0 + x1 of_second, y1 = x1 cos1 + x0 of_first, for the heads of one token."""
    head = tl.arange(0, HEADS)[:, None]
    channel = tl.arange(0, HALF)[None, :]
    inside = (head < num_heads) & (channel < half)
    place = head * head_stride + channel
    x0 = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
    x1 = tl.load(x_ptr + place + half, mask=inside, other=0.0).to(tl.float32)
    place = head * (2 * half) + channel
    tl.store(y_ptr + place, (x0 * cos0 + x1 * of_second).to(y_ptr.dtype.element_ty), mask=inside)
    tl.store(y_ptr + place + half, (x1 * cos1 + x0 * of_first).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _turn_kernel(
    q_ptr, q_token_stride, q_head_stride, k_ptr, k_token_stride, k_head_stride, cos_ptr, cos_stride, sin_ptr,
    sin_stride, q_out_ptr, k_out_ptr, num_q_heads, num_k_heads, half,
    Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HALF: tl.constexpr, TURNS_BACK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, HALF)[None, :]
    inside = channel < half
    cos_ptr += token * cos_stride
    sin_ptr += token * sin_stride
    cos0 = tl.load(cos_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    cos1 = tl.load(cos_ptr + half + channel, mask=inside, other=0.0).to(tl.float32)
    sin0 = tl.load(sin_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    sin1 = tl.load(sin_ptr + half + channel, mask=inside, other=0.0).to(tl.float32)
    if TURNS_BACK:
        of_second, of_first = sin1, -sin0
    else:
        of_second, of_first = -sin0, sin1
    _turn_heads(
        q_ptr + token * q_token_stride, q_out_ptr + token * num_q_heads * 2 * half, q_head_stride,
        cos0, cos1, of_second, of_first, num_q_heads, half, Q_HEADS, HALF,
    )  # fmt: skip
    _turn_heads(
        k_ptr + token * k_token_stride, k_out_ptr + token * num_k_heads * 2 * half, k_head_stride,
        cos0, cos1, of_second, of_first, num_k_heads, half, K_HEADS, HALF,
    )  # fmt: skip


def turn(q_THD: Tensor, k_TKD: Tensor, cos_TD: Tensor, sin_TD: Tensor, *, turns_back: bool) -> tuple[Tensor, Tensor]:
    """Queries and keys turned to their positions, or their gradients turned back; new contiguous tensors.

    Tokens and heads may lie at any distance, in q, k and the angles. Computed in float32, rounded once.
    """
    q_THD, k_TKD, cos_TD, sin_TD = (with_unit_stride(each) for each in (q_THD, k_TKD, cos_TD, sin_TD))
    num_tokens, num_q_heads, head_dim = q_THD.shape
    num_k_heads, half = k_TKD.shape[1], head_dim // 2
    q_out = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
    k_out = torch.empty(k_TKD.shape, dtype=k_TKD.dtype, device=k_TKD.device)
    q_heads, k_heads, width = (next_power_of_two(each) for each in (num_q_heads, num_k_heads, half))
    _turn_kernel[(num_tokens,)](
        q_THD, q_THD.stride(0), q_THD.stride(1), k_TKD, k_TKD.stride(0), k_TKD.stride(1), cos_TD, cos_TD.stride(0),
        sin_TD, sin_TD.stride(0), q_out, k_out, num_q_heads, num_k_heads, half,
        Q_HEADS=q_heads, K_HEADS=k_heads, HALF=width, TURNS_BACK=turns_back, num_warps=num_warps(q_heads * width),
    )  # fmt: skip
    return q_out, k_out
