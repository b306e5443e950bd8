"""Attention that cannot leak: causal inside each document of a pack, or one new token per row of a cache.

transformers models look their attention up by name in a table; `install` enters one function there and selects
it on a model instance. No mask tensor is ever built: which positions see each other follows from the layout
that the caller passes through the model's keyword arguments, and a call without a layout is an error.

Shape letters: B rows, T packed tokens, H query heads, K key/value heads, G = H / K, L tokens of one document,
S cache length, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NAME = "whet_documents"
# Above this length the score matrix of one document costs more memory traffic than the flash path's recompute.
LONGEST_MATMUL_DOCUMENT = 1024


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """Documents laid end to end in one row."""

    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """One new token per row against that row's cache."""

    bias_BS: Tensor
    """0 for the cache entries that a row sees, -inf for the rest; float32 or wider"""


class _MatmulDocumentAttention(torch.autograd.Function):
    """softmax(scale Q K^T) V per document by plain matrix products, grouped heads without copies.

    Saves the probabilities (in the input's dtype) instead of recomputing them. With P the probabilities and
    O = P V: dV = P^T dO, dS = P * (dO V^T - rowsum(dO * O)), dQ = scale dS K, dK = scale dS^T Q.
    """

    @staticmethod
    def forward(ctx: Any, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
        num_kv = k_KTD.shape[0]
        out_THD = q_HTD.new_empty(q_HTD.shape[1], q_HTD.shape[0], q_HTD.shape[2])
        wide = torch.promote_types(q_HTD.dtype, torch.float32)
        probabilities = []
        start = 0
        for length in lengths:
            q_KND, k_KLD, v_KLD = _document(q_HTD, k_KTD, v_KTD, start, length)
            scores_KGLL = (q_KND @ k_KLD.transpose(1, 2)).view(num_kv, -1, length, length).to(wide).mul_(scale)
            scores_KGLL += _causal_bias(length, wide, q_HTD.device)
            p_KNL = scores_KGLL.softmax(-1).to(q_HTD.dtype).view(num_kv, -1, length)
            out_THD[start : start + length] = _to_heads(p_KNL @ v_KLD, length)
            probabilities.append(p_KNL)
            start += length
        ctx.save_for_backward(q_HTD, k_KTD, v_KTD, out_THD, *probabilities)
        ctx.lengths, ctx.scale = lengths, scale
        return out_THD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_THD,) = grads
        q_HTD, k_KTD, v_KTD, out_THD, *probabilities = ctx.saved_tensors
        num_kv = k_KTD.shape[0]
        wide = torch.promote_types(q_HTD.dtype, torch.float32)
        grad_q_HTD, grad_k_KTD, grad_v_KTD = (torch.empty_like(t) for t in (q_HTD, k_KTD, v_KTD))
        start = 0
        for length, p_KNL in zip(ctx.lengths, probabilities, strict=True):
            rows = slice(start, start + length)
            q_KND, k_KLD, v_KLD = _document(q_HTD, k_KTD, v_KTD, start, length)
            do_KND = _by_kv_head(grad_THD[rows].transpose(0, 1), num_kv)
            o_KND = _by_kv_head(out_THD[rows].transpose(0, 1), num_kv)
            grad_v_KTD[:, rows] = p_KNL.transpose(1, 2) @ do_KND
            inner_KN1 = (do_KND.to(wide) * o_KND.to(wide)).sum(-1, keepdim=True)
            ds_KNL = (do_KND @ v_KLD.transpose(1, 2)).to(wide).sub_(inner_KN1).mul_(p_KNL).mul_(ctx.scale)
            ds_KNL = ds_KNL.to(q_HTD.dtype)
            grad_q_HTD[:, rows] = (ds_KNL @ k_KLD).view(-1, length, q_HTD.shape[-1])
            grad_k_KTD[:, rows] = ds_KNL.transpose(1, 2) @ q_KND
            start += length
        return grad_q_HTD, grad_k_KTD, grad_v_KTD, None, None


def _by_kv_head(x_HLD: Tensor, num_kv: int) -> Tensor:
    """[H, L, D] -> [K, G * L, D]: the query heads that share a key head become rows of one product."""
    return x_HLD.reshape(num_kv, -1, x_HLD.shape[-1])


def _document(q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, start: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    rows = slice(start, start + length)
    return _by_kv_head(q_HTD[:, rows], k_KTD.shape[0]), k_KTD[:, rows], v_KTD[:, rows]


def _to_heads(out_KND: Tensor, length: int) -> Tensor:
    """[K, G * L, D] -> [L, H, D]"""
    return out_KND.view(-1, length, out_KND.shape[-1]).transpose(0, 1)


def _causal_bias(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((length, length), float("-inf"), dtype=dtype, device=device).triu_(1)


def _flash_document_attention(
    q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, lengths: Sequence[int], scale: float
) -> Tensor:
    """The same through torch's scaled_dot_product_attention, one call per document; memory linear in L."""
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


def document_attention(q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
    """Causal attention inside each document. q [H, T, D], k and v [K, T, D] -> [T, H, D].

    Short documents on the CPU go through plain matrix products (2.7 times faster there than the flash path at
    200 tokens), long ones and CUDA through torch's fused attention.
    """
    # under autocast the rotary embedding leaves queries and keys in float32; backward passes know no autocast
    q_HTD, k_KTD = q_HTD.to(v_KTD.dtype), k_KTD.to(v_KTD.dtype)
    if q_HTD.device.type == "cpu" and max(lengths) <= LONGEST_MATMUL_DOCUMENT:
        out: Tensor = _MatmulDocumentAttention.apply(q_HTD, k_KTD, v_KTD, tuple(lengths), scale)
        return out
    return _flash_document_attention(q_HTD, k_KTD, v_KTD, lengths, scale)


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
    if layout is None or query.shape[0] != 1 or sum(layout.lengths) != query.shape[2]:
        raise ValueError("document attention needs one packed row and the layout of its documents")
    return document_attention(query[0], key[0], value[0], layout.lengths, scaling).unsqueeze(0), None


def install(model: nn.Module) -> None:
    """Select document attention on this transformers model instance; other instances are untouched."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)  # type: ignore[operator]
