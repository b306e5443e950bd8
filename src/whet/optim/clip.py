"""Gradient clipping by the global norm, which is exact for bfloat16 gradients too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients down to the L2 norm `max_norm` (0: never); returns the norm before, one number on the device.

    torch's own for float32 and wider. Of bfloat16 gradients torch would round each tensor's norm and the factor to 8
    bits: here both are float32, and each gradient is rounded once.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if all(gradient.dtype != torch.bfloat16 for gradient in gradients):
        return nn.utils.clip_grad_norm_(parameters, max_norm or math.inf)
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if max_norm:
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.copy_(gradient.float().mul_(factor))
    return norm
