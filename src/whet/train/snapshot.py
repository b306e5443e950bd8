"""A copy in memory of all that a step changes: weights, moments, random state, state of callbacks.

It lies in the host's memory, pinned where training runs on a GPU, and is made anew in the same memory. A rank whose
tensors are parts of larger ones copies its parts.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whet.train.sound import state_tensors

if TYPE_CHECKING:
    from whet.train.loop import Training


class Snapshot:
    """At most one state at a time; the values are its own, so that no later step changes them."""

    def __init__(self) -> None:
        self.step: int | None = None
        """the 0-based step that comes after the state; None: nothing is kept"""
        self._kept: dict[str, Tensor] = {}
        self._with_moments: frozenset[str] = frozenset()
        self._random: Tensor | None = None
        self._callbacks = ""

    @torch.no_grad()
    def take(self, run: Training, step: int) -> None:
        """Keep the state before 0-based `step` in place of the one before."""
        tensors = dict(state_tensors(run.trainables, run.optimizer))
        for name in self._kept.keys() - tensors.keys():
            del self._kept[name]
        for name, tensor in tensors.items():
            if name not in self._kept:
                self._kept[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._kept[name].copy_(tensor, non_blocking=tensor.is_cuda)
        named = run.trainables.named.items()
        self._with_moments = frozenset(name for name, p in named if run.optimizer.state.get(p))
        self._random = torch.get_rng_state()
        # as text it stays, whatever callbacks do with what they gave
        self._callbacks = json.dumps(run.callbacks.state())
        self.step = step

    @torch.no_grad()
    def put_back(self, run: Training) -> int:
        """Bring `run` back to the state; returns its 0-based step."""
        assert self.step is not None and self._random is not None, "nothing was kept"
        for name, parameter in run.trainables.named.items():
            if name not in self._with_moments:  # the optimizer had not met it yet
                run.optimizer.state.pop(parameter, None)
        for name, tensor in state_tensors(run.trainables, run.optimizer):
            tensor.copy_(self._kept[name])
        for name, weight in run.trainables.weights.items():
            weight.copy_(run.trainables.named[name])
        run.optimizer.zero_grad(set_to_none=True)
        torch.set_rng_state(self._random)
        run.callbacks.load_state(json.loads(self._callbacks))
        return self.step
