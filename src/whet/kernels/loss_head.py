"""Output head and cross-entropy in one: neither the logits of all positions nor those of all tokens ever exist.

Rows of taught positions meet the vocabulary block by block. Each block b is a softmax of its own: with the block's
logits l_b = h W_b^T and lse_b = logsumexp(l_b), the whole is

    lse = logsumexp_b(lse_b)        nll = lse - l[label]        P_b = softmax(l_b) exp(lse_b - lse)

so sums over the vocabulary are carried from block to block and rescaled (Milakov and Gimelshein, arXiv:1805.02867,
equations 4 to 6), and the gradients dh = (P - onehot) W and, where the head trains, dW = (P - onehot)^T h are made
while a block is in the cache (gradients in the forward pass: Liger's fused linear cross-entropy, arXiv:2410.10989,
section 3.2). The label's own entry is left out of P_b and added at the end as (p[label] - 1) W[label], in float32:
where a label is almost certain, p - 1 has a precision that a bfloat16 product of P and W does not.

Ranks that share a layer hold some rows of W each. Everyone's lse and label logit travel, and the rest stays where it
is: dh is then the part of it that this rank's tokens give (the caller adds the ranks' parts up), dW that of its rows.

Shape letters: N taught positions, E hidden size, V vocabulary, C rows at a time, B tokens of one block, R ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from whet.kernels import loss_head_libraries
from whet.kernels.loss_head_libraries import LossHead

# On CPUs fewer rows pack the head's weight too often for each product; more of them only cost memory.
ROWS_PER_CHUNK = 512
# Logits of a block stay in a core's share of the cache on CPUs; GPUs want few large kernels.
TOKENS_PER_BLOCK = {"cpu": 2048, "cuda": 32768}


@dataclass(frozen=True, slots=True)
class VocabularyShare:
    """Which rows of the head's weight this rank holds, where ranks share it."""

    first: int
    """token id of the first row"""
    of_all_ranks: Callable[[Tensor], Tensor]
    """a tensor [...] -> everyone's [R, ...], in the order of their tokens"""

    def whole(self, lse_C1: Tensor, label_logit_C1: Tensor) -> tuple[Tensor, Tensor]:
        """Both over the whole vocabulary; the logit of a label that a rank does not hold comes in as 0."""
        lse_RC1, label_logit_RC1 = self.of_all_ranks(torch.stack([lse_C1, label_logit_C1])).unbind(1)
        return lse_RC1.logsumexp(0), label_logit_RC1.sum(0)

    def likeliest(self, largest_C1: Tensor, token_C1: Tensor) -> Tensor:
        """[C, 1] the token of the largest logit, the first of several, counted like `token_C1` from this rank's."""
        ours = torch.stack([largest_C1, (token_C1 + self.first).to(largest_C1.dtype)])
        largest_RC1, token_RC1 = self.of_all_ranks(ours).unbind(1)
        return token_RC1.gather(0, largest_RC1.max(0, keepdim=True).indices)[0].long() - self.first


_SHARE = "whet_vocabulary_share"


def set_share(head: nn.Module, share: VocabularyShare) -> None:
    """Say of an output head which rows of the whole weight it holds."""
    setattr(head, _SHARE, share)


def share_of(head: nn.Module) -> VocabularyShare | None:
    """What `set_share` said; None for a head that is whole."""
    share: VocabularyShare | None = getattr(head, _SHARE, None)
    return share


class _LinearNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NE: Tensor, weight_VE: Tensor, labels_N: Tensor, dtype: torch.dtype,
        share: VocabularyShare | None,
    ) -> Tensor:  # fmt: skip
        weight = weight_VE.to(dtype)
        total = torch.zeros((), dtype=_wide(dtype), device=hidden_NE.device)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden_NE = torch.empty_like(hidden_NE) if needs_hidden else None
        # in bfloat16 the many small parts of a frequent token would vanish beside their sum
        grad_weight_VE = torch.zeros_like(weight_VE, dtype=_wide(weight_VE.dtype)) if needs_weight else None
        for start in range(0, len(labels_N), ROWS_PER_CHUNK):
            rows = slice(start, start + ROWS_PER_CHUNK)
            hidden_CE, labels_C = hidden_NE[rows].to(dtype), _counted_from(share, labels_N[rows])
            nll, grad_CE = _chunk(hidden_CE, weight, labels_C, needs_hidden, grad_weight_VE, share)
            total += nll
            if grad_hidden_NE is not None:
                grad_hidden_NE[rows] = grad_CE
        ctx.save_for_backward(grad_hidden_NE, grad_weight_VE)
        ctx.weight_dtype = weight_VE.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_NE, grad_weight_VE = ctx.saved_tensors
        scale = grads[0]
        grad_hidden = None if grad_hidden_NE is None else grad_hidden_NE * scale.to(grad_hidden_NE.dtype)
        grad_weight = (
            None if grad_weight_VE is None else (grad_weight_VE * scale.to(grad_weight_VE.dtype)).to(ctx.weight_dtype)
        )
        return grad_hidden, grad_weight, None, None, None


def _chunk(
    hidden_CE: Tensor, weight_VE: Tensor, labels_C: Tensor, needs_hidden: bool, grad_weight_VE: Tensor | None,
    share: VocabularyShare | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(summed nll, its gradient for `hidden_CE` where that is needed); the head's is added to `grad_weight_VE`."""
    wide = _wide(hidden_CE.dtype)
    lse_C1 = torch.full((len(hidden_CE), 1), -torch.inf, dtype=wide, device=hidden_CE.device)
    label_logit_C1 = torch.zeros_like(lse_C1)
    grad_CE = torch.zeros(hidden_CE.shape, dtype=wide, device=hidden_CE.device) if needs_hidden else lse_C1
    kept: list[tuple[slice, Tensor, Tensor]] = []
    for block, logits_CB in _blocks(hidden_CE, weight_VE):
        place_C1, is_here_C1 = _labels_in(block, labels_C)
        label_logit_C1 = torch.where(is_here_C1, logits_CB.gather(1, place_C1), label_logit_C1)
        largest_C1 = logits_CB.amax(-1, keepdim=True)
        p_CB = logits_CB.softmax(-1)
        block_lse_C1 = largest_C1 - p_CB.amax(-1, keepdim=True).log()
        before_C1, lse_C1 = lse_C1, torch.logaddexp(lse_C1, block_lse_C1)
        if not needs_hidden and grad_weight_VE is None:
            continue
        p_CB.scatter_(1, place_C1, p_CB.gather(1, place_C1).masked_fill_(is_here_C1, 0.0))
        p_CB = p_CB.to(hidden_CE.dtype)
        if needs_hidden:
            part_CE = (p_CB @ weight_VE[block]).to(wide)
            grad_CE.mul_((before_C1 - lse_C1).exp()).addcmul_(part_CE, (block_lse_C1 - lse_C1).exp())
        if grad_weight_VE is not None:
            kept.append((block, p_CB, block_lse_C1))

    if share is not None:
        own_lse_C1 = lse_C1
        lse_C1, label_logit_C1 = share.whole(lse_C1, label_logit_C1)
        if needs_hidden:
            grad_CE.mul_((own_lse_C1 - lse_C1).exp())
    place_C1, is_here_C1 = _labels_in(slice(0, len(weight_VE)), labels_C)
    minus_miss_C1 = torch.expm1(label_logit_C1 - lse_C1).masked_fill_(~is_here_C1, 0.0)
    if needs_hidden:
        grad_CE.addcmul_(weight_VE[place_C1[:, 0]].to(wide), minus_miss_C1)
    if grad_weight_VE is not None:
        hidden_wide_CE = hidden_CE.to(wide)
        for block, p_CB, block_lse_C1 in kept:
            share_CE = hidden_wide_CE * (block_lse_C1 - lse_C1).exp()
            grad_weight_VE[block] += p_CB.T @ share_CE.to(hidden_CE.dtype)
        grad_weight_VE.index_add_(0, place_C1[:, 0], (hidden_wide_CE * minus_miss_C1).to(grad_weight_VE.dtype))
    return (lse_C1 - label_logit_C1).sum(), grad_CE


def _counted_from(share: VocabularyShare | None, labels_C: Tensor) -> Tensor:
    """Labels as rows of this rank's weight; what lies outside is another rank's."""
    return labels_C if share is None else labels_C - share.first


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _blocks(hidden_CE: Tensor, weight_VE: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(tokens, their logits [C, B] in float32 or wider), over the whole vocabulary."""
    num_tokens = TOKENS_PER_BLOCK.get(hidden_CE.device.type, TOKENS_PER_BLOCK["cuda"])
    for start in range(0, len(weight_VE), num_tokens):
        block = slice(start, min(start + num_tokens, len(weight_VE)))
        yield block, (hidden_CE @ weight_VE[block].T).to(_wide(hidden_CE.dtype))


def _labels_in(block: slice, labels_C: Tensor) -> tuple[Tensor, Tensor]:
    """(a column of the block for each row, whether it is the row's label), [C, 1] both; no label leaves the device."""
    place_C1 = labels_C[:, None] - block.start
    width = block.stop - block.start
    return place_C1.clamp(0, width - 1), (place_C1 >= 0) & (place_C1 < width)


def linear_nll_sum(
    hidden_NE: Tensor, weight_VE: Tensor, labels_N: Tensor, *, dtype: torch.dtype, kind: LossHead = "chunked",
    share: VocabularyShare | None = None,
) -> Tensor:  # fmt: skip
    """Summed negative log-likelihood (nats) of `labels_N` under softmax(hidden W^T); products run in `dtype`.

    Scalar in float32 or wider. Every label must be a token id: the caller drops untaught positions first. `kind`
    says whose computation it is: this file's, torch's or liger-kernel's. With a `share`, `weight_VE` is this rank's
    part of W, the result is that of all of it on every rank, and only this file's computation will do.
    """
    if kind != "chunked":
        if share is not None:
            raise ValueError(f"the {kind} loss head takes no share of a vocabulary")
        library = loss_head_libraries.LIBRARIES[kind]
        return library(hidden_NE.to(dtype), weight_VE.to(dtype), labels_N, ROWS_PER_CHUNK)
    out: Tensor = _LinearNLL.apply(hidden_NE, weight_VE, labels_N, dtype, share)
    return out


@torch.no_grad()
def nll_and_correct(
    hidden_NE: Tensor, weight_VE: Tensor, labels_N: Tensor, *, dtype: torch.dtype,
    share: VocabularyShare | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Per position [N] the negative log-likelihood (nats, float32 or wider) and whether the label is the arg max."""
    weight = weight_VE.to(dtype)
    nll_N = torch.empty(len(labels_N), dtype=_wide(dtype), device=hidden_NE.device)
    correct_N = torch.empty(len(labels_N), dtype=torch.bool, device=hidden_NE.device)
    for start in range(0, len(labels_N), ROWS_PER_CHUNK):
        rows = slice(start, start + ROWS_PER_CHUNK)
        logits_CV = (hidden_NE[rows].to(dtype) @ weight.T).to(nll_N.dtype)
        labels_C = _counted_from(share, labels_N[rows])
        place_C1, is_here_C1 = _labels_in(slice(0, len(weight)), labels_C)
        label_logit_C1 = logits_CV.gather(1, place_C1).masked_fill_(~is_here_C1, 0.0)
        lse_C1 = logits_CV.logsumexp(-1, keepdim=True)
        largest_C1, token_C1 = logits_CV.max(-1, keepdim=True)
        if share is not None:
            lse_C1, label_logit_C1 = share.whole(lse_C1, label_logit_C1)
            token_C1 = share.likeliest(largest_C1, token_C1)
        nll_N[rows] = (lse_C1 - label_logit_C1)[:, 0]
        correct_N[rows] = token_C1[:, 0] == labels_C
    return nll_N, correct_N
