"""Samples that begin alike, and the tiny Llama with norms of its own width, so that equal means equal to 1e-10."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from tiny import VOCAB, make_samples
from torch import Tensor, nn

from whet.kernels import reference
from whet.types import TokenizedSample


def begin_alike(lengths: Sequence[int], num_shared: int, *, seed: int = 0) -> list[TokenizedSample]:
    """Samples that begin with the same `num_shared` untaught tokens, and go on with `lengths` of their own."""
    alike = np.random.default_rng([seed, 99]).integers(3, VOCAB, num_shared).astype(np.int32)
    return [
        replace(
            sample,
            ids=np.concatenate([alike, sample.ids]),
            taught=np.concatenate([np.zeros(num_shared, dtype=bool), sample.taught]),
        )
        for sample in make_samples(lengths, seed=seed)
    ]


def widen_norms(model: nn.Module) -> None:
    """Transformers rounds to float32 in its norms, after gradients of a shared token were added up, not before."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_normed, module)


def _normed(module: nn.Module, x: Tensor) -> Tensor:
    return reference.rms_norm(x, module.weight, module.variance_epsilon)
