"""Gradient clipping by the global norm, which is exact for bfloat16 gradients and for sharded ones too."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def square_of_parts(parameters: Sequence[Tensor], split: Collection[Tensor] = frozenset()) -> Tensor:
    """[1] the sum of squares of gradients that this rank holds in part, to be added up over the parts.

    Those are the sharded ones (DTensors) and those of `split`.
    """
    parts = [_own(p.grad) for p in parameters if p.grad is not None and _is_part(p, split)]
    if not parts:
        return torch.zeros(1, dtype=torch.float64, device=parameters[0].device)
    return _norm(parts).double().square()[None]


@torch.no_grad()
def clip_gradients(
    parameters: Sequence[Tensor], max_norm: float, squares: Tensor | None = None,
    split: Collection[Tensor] = frozenset(),
) -> Tensor:  # fmt: skip
    """Scale all gradients down to the L2 norm `max_norm` (0: never); returns the norm before, one number on the device.

    `squares`: what `square_of_parts` gives for `split` in sum over the parts. torch's own for float32 and wider
    gradients that are whole. Of bfloat16 gradients torch would round each tensor's norm and the factor to 8 bits: here
    both are float32, and each gradient is rounded once.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros((), device=parameters[0].device)
    whole = [p.grad for p in parameters if p.grad is not None and not _is_part(p, split)]
    is_whole = len(whole) == len(gradients)
    if is_whole and all(gradient.dtype != torch.bfloat16 for gradient in gradients):
        return nn.utils.clip_grad_norm_(parameters, max_norm or math.inf)
    if is_whole:
        norm = _norm(whole)
    else:
        assert squares is not None, "the norm is that of all parts"
        norm = (_norm(whole).double().square() + squares[0]).sqrt() if whole else squares[0].sqrt()
    if max_norm:
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in map(_own, gradients):
            gradient.copy_(gradient.to(_wide(gradient.dtype)).mul_(factor))
    return norm


def _is_part(parameter: Tensor, split: Collection[Tensor]) -> bool:
    return isinstance(parameter.grad, DTensor) or parameter in split


def _own(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(each, dtype=_wide(each.dtype)) for each in gradients]
    return torch.linalg.vector_norm(torch.stack(norms))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
