"""Attention where the documents of a pack go on from a prefix that is stored once, on top of attention without one.

row          |p0 p1 p2|a3 a4|b3 b4 b5|        a and b see p and themselves, p sees itself, all of them causally
written out  |p0 p1 p2 a3 a4|p0 p1 p2 b3 b4 b5|

The prefix is copied before every document for attention alone, and what comes out for it is taken from the first
copy. What the layers around attention save stays saved. The gradient of the prefix is the sum over its copies in the
order of the documents, added up in float32 or wider and rounded once.

Shape letters: T tokens of the row, H query heads, K key/value heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Attention = Callable[[Tensor, Tensor, Tensor, tuple[int, ...]], Tensor]
"""(q [H, T, D], k and v [K, T, D], lengths) -> [T, H, D]"""


def written_out(
    attention: Attention, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, lengths: tuple[int, ...], prefix: int
) -> Tensor:
    """[T, H, D]: `attention` over documents that each begin with a copy of the row's first `prefix` tokens."""
    q_HTD, k_KTD, v_KTD = (_WriteOut.apply(x, lengths, prefix) for x in (q_HTD, k_KTD, v_KTD))
    out_THD = attention(q_HTD, k_KTD, v_KTD, tuple(prefix + length for length in lengths))
    of_prefix, *parts = out_THD.split(_sizes(lengths, prefix))
    return torch.cat([of_prefix, *parts[::2]])


class _WriteOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_HTD: Tensor, lengths: tuple[int, ...], prefix: int) -> Tensor:
        ctx.lengths, ctx.prefix = lengths, prefix
        of_prefix, *documents = x_HTD.split([prefix, *lengths], dim=1)
        return torch.cat([part for document in documents for part in (of_prefix, document)], dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        parts = grads[0].split(_sizes(ctx.lengths, ctx.prefix), dim=1)
        return torch.cat([torch.stack(parts[::2]).sum(0), *parts[1::2]], dim=1), None, None


def _sizes(lengths: tuple[int, ...], prefix: int) -> list[int]:
    return [size for length in lengths for size in (prefix, length)]
