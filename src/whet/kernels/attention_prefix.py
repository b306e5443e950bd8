"""Attention where the documents of a pack go on from a prefix that is stored once, on top of attention without one.

row          |p0 p1 p2|a3 a4|b3 b4 b5|        a and b see p and themselves, p sees itself, all of them causally
written out  |p0 p1 p2 a3 a4|p0 p1 p2 b3 b4 b5|

`written_out` is for whatever attention there is: it copies the prefix before every document, for attention alone, and
keeps its result once. The gradient of the prefix is the sum over the copies, in the order of the documents.

Shape letters: T tokens of the row, H query heads, K key/value heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Attention = Callable[[Tensor, Tensor, Tensor, tuple[int, ...]], Tensor]
"""(q [H, T, D], k and v [K, T, D], lengths) -> [T, H, D]"""


def written_out(
    attention: Attention, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, lengths: Sequence[int], prefix: int
) -> Tensor:
    """[T, H, D]: `attention` over documents that each begin with a copy of the row's first `prefix` tokens."""
    copied = (_write_out(x, lengths, prefix) for x in (q_HTD, k_KTD, v_KTD))
    out_THD = attention(*copied, tuple(prefix + length for length in lengths))
    of_prefix, *parts = out_THD.split([size for length in lengths for size in (prefix, length)])
    return torch.cat([of_prefix, *parts[::2]])


def _write_out(x_HTD: Tensor, lengths: Sequence[int], prefix: int) -> Tensor:
    of_prefix, *documents = x_HTD.split([prefix, *lengths], dim=1)
    return torch.cat([part for document in documents for part in (of_prefix, document)], dim=1)
