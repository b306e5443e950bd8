"""Attention that cannot leak: causal inside each document of a pack, or one new token per row of a cache.

transformers models look their attention up by name in a table; `install` enters one function there and selects
it on a model instance. No mask tensor is ever built: which positions see each other follows from the layout
that the caller passes through the model's keyword arguments, and a call without a layout is an error.

Shape letters: B rows, T packed tokens, H query heads, K key/value heads, G = H / K, S cache length, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, nn

from whet.kernels.attention_prefix import written_out
from whet.kernels.attention_tiles import tiled_attention
from whet.kernels.attention_varlen import VarlenAttention

NAME = "whet_documents"
# The limit where nobody has measured it for this machine: models that only answer, and plans of earlier versions.
LONGEST_MATMUL_DOCUMENT = 1024
_LONGEST = "whet_longest_matmul_document"
_VARLEN = "whet_varlen_attention"


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """Documents laid end to end in one row."""

    lengths: tuple[int, ...]
    prefix: int = 0
    """tokens at the beginning of the row that `lengths` does not count and all documents go on from"""
    offsets_D: Tensor | None = field(default=None, compare=False)
    """`PackedBatch.offsets_D`, for kernels that read the lengths from a tensor; without it each layer makes its own"""

    def offsets_on(self, device: torch.device) -> Tensor:
        """int32 [documents + 1]: where each document begins, the prefix in each, and the end of the last one."""
        if self.offsets_D is not None:
            return self.offsets_D
        ends = accumulate((self.prefix + length for length in self.lengths), initial=0)
        return torch.tensor(list(ends), dtype=torch.int32, device=device)


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """One new token per row against that row's cache."""

    bias_BS: Tensor
    """0 for the cache entries that a row sees, -inf for the rest; float32 or wider"""


def fused_attention(q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
    """Causal attention through torch's scaled_dot_product_attention, one call per document; memory linear in L."""
    parts = []
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        part_1HLD = nn.functional.scaled_dot_product_attention(
            q_HTD[None, :, rows], k_KTD[None, :, rows], v_KTD[None, :, rows],
            is_causal=True, scale=scale, enable_gqa=q_HTD.shape[0] != k_KTD.shape[0],
        )  # fmt: skip
        parts.append(part_1HLD[0].transpose(0, 1))
        start += length
    return torch.cat(parts)


def document_attention(
    q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, lengths: Sequence[int], scale: float, *,
    prefix: int = 0, longest_matmul_document: int = LONGEST_MATMUL_DOCUMENT,
) -> Tensor:  # fmt: skip
    """Causal attention inside each document. q [H, T, D], k and v [K, T, D] -> [T, H, D].

    On the CPU, documents of at most `longest_matmul_document` tokens go through plain matrix products, longer ones
    through torch's fused attention; elsewhere all do. The two differ in rounding. Fused attention knows no shared
    prefix: where it or what a document adds to it is longer, it is written out before every document of the row.
    """
    # under autocast the rotary embedding leaves queries and keys in float32; backward passes know no autocast
    q_HTD, k_KTD = q_HTD.to(v_KTD.dtype), k_KTD.to(v_KTD.dtype)
    if prefix:
        if q_HTD.device.type == "cpu" and max(prefix, *lengths) <= longest_matmul_document:
            return tiled_attention(q_HTD, k_KTD, v_KTD, tuple(lengths), scale, prefix)
        alone = partial(document_attention, scale=scale, longest_matmul_document=longest_matmul_document)
        return written_out(alone, q_HTD, k_KTD, v_KTD, tuple(lengths), prefix)
    if q_HTD.device.type != "cpu":
        return fused_attention(q_HTD, k_KTD, v_KTD, lengths, scale)
    parts = []
    start = 0
    for is_short, run in groupby(lengths, key=lambda length: length <= longest_matmul_document):
        neighbours = tuple(run)
        rows = slice(start, start + sum(neighbours))
        attention = tiled_attention if is_short else fused_attention
        parts.append(attention(q_HTD[:, rows], k_KTD[:, rows], v_KTD[:, rows], neighbours, scale))
        start = rows.stop
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def attention_at_once(
    varlen: VarlenAttention, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, layout: DocumentLayout, scale: float
) -> Tensor:
    """`document_attention` by a kernel that takes all documents of a pack at once; a prefix is written out before."""
    offsets_D = layout.offsets_on(q_HTD.device)

    def attend_all(q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, lengths: Sequence[int]) -> Tensor:
        # under autocast the rotary embedding leaves queries and keys in float32, which these kernels do not take
        q_THD, k_TKD, v_TKD = (x.transpose(0, 1).to(v_KTD.dtype) for x in (q_HTD, k_KTD, v_KTD))
        return varlen(q_THD, k_TKD, v_TKD, offsets_D, max(lengths), scale)

    if layout.prefix:
        return written_out(attend_all, q_HTD, k_KTD, v_KTD, layout.lengths, layout.prefix)
    return attend_all(q_HTD, k_KTD, v_KTD, layout.lengths)


def cached_attention(q_BHD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, bias_BS: Tensor, scale: float) -> Tensor:
    """One new token per row against its cache, grouped heads without copies. -> [B, H, D]"""
    num_rows, num_heads, head_dim = q_BHD.shape
    q_BKGD = q_BHD.view(num_rows, k_BKSD.shape[1], -1, head_dim)
    scores_BKGS = torch.add(bias_BS[:, None, None, :], q_BKGD @ k_BKSD.transpose(2, 3), alpha=scale)
    p_BKGS = scores_BKGS.softmax(-1).to(q_BHD.dtype)
    return (p_BKGS @ v_BKSD).view(num_rows, num_heads, head_dim)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float, dropout: float = 0.0, layout: DocumentLayout | CacheLayout | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Entry in transformers' attention table. query [B, H, T, D], key and value [B, K, S, D] -> [B, T, H, D]."""
    if attention_mask is not None or dropout:
        raise ValueError("document attention takes no mask and no attention dropout")
    if isinstance(layout, CacheLayout):
        return cached_attention(query[:, :, 0], key, value, layout.bias_BS, scaling).unsqueeze(1), None
    if layout is None or query.shape[0] != 1 or layout.prefix + sum(layout.lengths) != query.shape[2]:
        raise ValueError("document attention needs one packed row and the layout of its documents")
    if (varlen := getattr(module, _VARLEN, None)) is not None:
        return attention_at_once(varlen, query[0], key[0], value[0], layout, scaling).unsqueeze(0), None
    longest = getattr(module, _LONGEST, LONGEST_MATMUL_DOCUMENT)
    out_THD = document_attention(
        query[0], key[0], value[0], layout.lengths, scaling, prefix=layout.prefix, longest_matmul_document=longest
    )
    return out_THD.unsqueeze(0), None


def install(
    model: nn.Module, *, longest_matmul_document: int = LONGEST_MATMUL_DOCUMENT, varlen: VarlenAttention | None = None
) -> None:
    """Select document attention on this transformers model instance; other instances are untouched.

    With `varlen` all documents of a pack go through that function at once.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)  # type: ignore[operator]
    for module in model.modules():
        if type(module).__name__.endswith("Attention"):
            setattr(module, _LONGEST, longest_matmul_document)
            setattr(module, _VARLEN, varlen)
