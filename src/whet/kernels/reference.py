"""Readable torch versions of every fast operation: the specification that tests and benchmarks import.

Shape letters: T packed tokens, H query heads, K key/value heads, D head dimension, N taught tokens,
E hidden size, F feed-forward channels, V vocabulary; I inputs, O outputs, R rank of an adapted layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def document_attention(
    q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, lengths: Sequence[int], scale: float, prefix: int = 0
) -> Tensor:
    """Causal attention inside each document through one dense mask over the whole pack. Returns [T, H, D].

    All documents see the first `prefix` tokens, which `lengths` does not count.
    """
    num_groups = q_HTD.shape[0] // k_KTD.shape[0]
    k_HTD = k_KTD.repeat_interleave(num_groups, dim=0)
    v_HTD = v_KTD.repeat_interleave(num_groups, dim=0)
    sizes = torch.tensor([prefix, *lengths])
    document_T = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(q_HTD.device)
    seen_TT = (document_T[:, None] == document_T[None, :]) | (document_T == 0)
    allowed_TT = seen_TT & torch.ones_like(seen_TT).tril()
    scores_HTT = (q_HTD @ k_HTD.transpose(1, 2)) * scale
    scores_HTT = scores_HTT.masked_fill(~allowed_TT, float("-inf"))
    return (scores_HTT.softmax(-1) @ v_HTD).transpose(0, 1)


def nll_sum(hidden_TE: Tensor, weight_VE: Tensor, labels_T: Tensor) -> Tensor:
    """Summed negative log-likelihood over taught tokens from full logits.

    Summed, not averaged: the caller divides once by the number of taught tokens of the whole step, so the
    gradient does not depend on how the step was cut into micro-batches or spread over ranks.
    """
    logits_TV = hidden_TE @ weight_VE.T
    wide = torch.promote_types(logits_TV.dtype, torch.float32)
    return torch.nn.functional.cross_entropy(logits_TV.to(wide), labels_T, ignore_index=-100, reduction="sum")


def cached_attention(q_BHD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, lengths_B: Tensor, scale: float) -> Tensor:
    """One new token per row against its own first `lengths_B[b]` cache entries. Returns [B, H, D]."""
    num_groups = q_BHD.shape[1] // k_BKSD.shape[1]
    rows = []
    for b in range(q_BHD.shape[0]):
        k_HSD = k_BKSD[b, :, : lengths_B[b]].repeat_interleave(num_groups, dim=0)
        v_HSD = v_BKSD[b, :, : lengths_B[b]].repeat_interleave(num_groups, dim=0)
        scores_HS = (k_HSD @ q_BHD[b].unsqueeze(-1)).squeeze(-1) * scale
        rows.append((scores_HS.softmax(-1).unsqueeze(1) @ v_HSD).squeeze(1))
    return torch.stack(rows)


def lora_linear_from_start(
    x_TI: Tensor, weight_OI: Tensor, a_RI: Tensor, b_OR: Tensor, start_a_RI: Tensor, start_b_OR: Tensor, *,
    scale: float, dropped_TI: Tensor,
) -> Tensor:  # fmt: skip
    """x W^T + s (drop(x) A^T B^T - x A0^T B0^T), term by term, `dropped_TI` being drop(x). Returns [T, O]."""
    return x_TI @ weight_OI.T + scale * (dropped_TI @ a_RI.T @ b_OR.T - x_TI @ start_a_RI.T @ start_b_OR.T)


def rms_norm(x_TE: Tensor, weight_E: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) in float32 or wider, rounded to x's dtype, times the weight. Returns [T, E]."""
    wide_TE = x_TE.to(torch.promote_types(x_TE.dtype, torch.float32))
    normed_TE = wide_TE * torch.rsqrt(wide_TE.square().mean(-1, keepdim=True) + eps)
    return weight_E * normed_TE.to(x_TE.dtype)


def rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Each pair (x_i, x_{i + D/2}) of a head turned by its position's angle. Returns [T, H, D]."""
    first_THd, second_THd = x_THD.chunk(2, dim=-1)
    turned_THD = torch.cat([-second_THd, first_THd], dim=-1)
    return x_THD * cos_TD.unsqueeze(1) + turned_THD * sin_TD.unsqueeze(1)


def swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """silu(gate) * up. Returns [T, F]."""
    return gate_TF * torch.sigmoid(gate_TF) * up_TF
