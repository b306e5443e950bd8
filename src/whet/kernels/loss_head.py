"""Output head and cross-entropy in one: full logits never exist, the gradient is made while they are at hand.

For a chunk of taught positions: logits = h W^T, nll = logsumexp(logits) - logits[label], and with
P = softmax(logits) - onehot(label) the gradients dh = P W and, if the head trains, dW += P^T h. Computing them in
the forward pass means that one chunk of logits is all that ever lives (the idea of Liger's fused linear
cross-entropy, arXiv:2410.10989, section 3.2, without its weight gradient when the head is frozen).

Shape letters: N taught positions, E hidden size, V vocabulary, C rows of one chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Smaller chunks repack the head's weight for every product and are slower on CPUs; larger ones only cost memory.
ROWS_PER_CHUNK = 512


class _LinearNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NE: Tensor, weight_VE: Tensor, labels_N: Tensor, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        weight = weight_VE.to(dtype)
        total = torch.zeros((), dtype=wide, device=hidden_NE.device)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden_NE = torch.empty_like(hidden_NE) if needs_hidden else None
        grad_weight_VE = torch.zeros_like(weight_VE) if needs_weight else None
        for start in range(0, len(labels_N), ROWS_PER_CHUNK):
            rows = slice(start, start + ROWS_PER_CHUNK)
            hidden_CE = hidden_NE[rows].to(dtype)
            logits_CV = (hidden_CE @ weight.T).to(wide)
            labels_C1 = labels_N[rows, None]
            label_logits_C1 = logits_CV.gather(1, labels_C1)
            # from here on in place: at this size one more [C, V] temporary costs more than the arithmetic
            largest_C1 = logits_CV.amax(-1, keepdim=True)
            exp_CV = logits_CV.sub_(largest_C1).exp_()
            sum_C1 = exp_CV.sum(-1, keepdim=True)
            total += (largest_C1 + sum_C1.log() - label_logits_C1).sum()
            if not (needs_hidden or needs_weight):
                continue
            residual_CV = exp_CV.mul_(1.0 / sum_C1)
            residual_CV.scatter_add_(1, labels_C1, residual_CV.new_full(labels_C1.shape, -1.0))
            residual_CV = residual_CV.to(dtype)
            if grad_hidden_NE is not None:
                grad_hidden_NE[rows] = (residual_CV @ weight).to(hidden_NE.dtype)
            if grad_weight_VE is not None:
                grad_weight_VE += (residual_CV.T @ hidden_CE).to(weight_VE.dtype)
        ctx.save_for_backward(grad_hidden_NE, grad_weight_VE)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_NE, grad_weight_VE = ctx.saved_tensors
        scale = grads[0]
        grad_hidden = None if grad_hidden_NE is None else grad_hidden_NE * scale.to(grad_hidden_NE.dtype)
        grad_weight = None if grad_weight_VE is None else grad_weight_VE * scale.to(grad_weight_VE.dtype)
        return grad_hidden, grad_weight, None, None


def linear_nll_sum(hidden_NE: Tensor, weight_VE: Tensor, labels_N: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Summed negative log-likelihood (nats) of `labels_N` under softmax(hidden W^T); products run in `dtype`.

    Scalar in float32 or wider. Every label must be a token id: the caller drops untaught positions first.
    """
    out: Tensor = _LinearNLL.apply(hidden_NE, weight_VE, labels_N, dtype)
    return out


@torch.no_grad()
def count_correct(hidden_NE: Tensor, weight_VE: Tensor, labels_N: Tensor, *, dtype: torch.dtype) -> int:
    """How many labels are the arg max of their logits (token accuracy's numerator)."""
    weight = weight_VE.to(dtype)
    correct = 0
    for start in range(0, len(labels_N), ROWS_PER_CHUNK):
        rows = slice(start, start + ROWS_PER_CHUNK)
        correct += int(((hidden_NE[rows].to(dtype) @ weight.T).argmax(-1) == labels_N[rows]).sum())
    return correct


@torch.no_grad()
def nll_and_correct(
    hidden_NE: Tensor, weight_VE: Tensor, labels_N: Tensor, *, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Per position [N] the negative log-likelihood (nats, float32 or wider) and whether the label is the arg max."""
    wide = torch.promote_types(dtype, torch.float32)
    weight = weight_VE.to(dtype)
    nll_N = torch.empty(len(labels_N), dtype=wide, device=hidden_NE.device)
    correct_N = torch.empty(len(labels_N), dtype=torch.bool, device=hidden_NE.device)
    for start in range(0, len(labels_N), ROWS_PER_CHUNK):
        rows = slice(start, start + ROWS_PER_CHUNK)
        logits_CV = (hidden_NE[rows].to(dtype) @ weight.T).to(wide)
        labels_C = labels_N[rows]
        nll_N[rows] = logits_CV.logsumexp(-1) - logits_CV.gather(1, labels_C[:, None])[:, 0]
        correct_N[rows] = logits_CV.argmax(-1) == labels_C
    return nll_N, correct_N
