"""AdamW for a model that holds bfloat16 weights: the update happens in float32, on masters.

    w32 <- AdamW(w32, float32(g16))        w16 <- bfloat16(w32)

A bfloat16 weight has 8 bits of precision, so an update below 1/512 of it would vanish; in the master such updates add
up until the weight moves (Micikevicius et al., Mixed Precision Training, arXiv:1710.03740, section 3.1). 16 bytes per
parameter: weight and gradient 2 each, master and both moments 4 each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

WIDE_GRADIENT_BYTES = 2**30
"""of gradients in float32 at a time: all of them would take 4 bytes more per parameter"""


class MasterAdamW(torch.optim.AdamW):
    """AdamW over float32 masters; gradients are read from the weights of the model, which follow the masters."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, weights: Mapping[nn.Parameter, nn.Parameter], **settings: Any
    ) -> None:
        """`weights`: master -> the weight of the model that follows it. Weights take their masters' values here."""
        super().__init__(groups, **settings)
        self._weights = dict(weights)
        self._follow(self._weights)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every master whose weight has a gradient; gradients stay where they are."""
        assert closure is None, "the loss is not computed anew"
        for portion in self._portions():
            for master in portion:
                gradient = self._weights[master].grad
                master.grad = None if gradient is None else gradient.to(master.dtype)
            super().step()
            for master in portion:
                master.grad = None
            self._follow(portion)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Gradients of the model's weights are gone."""
        assert set_to_none, "gradients are made anew by every step"
        for weight in self._weights.values():
            weight.grad = None

    @torch.no_grad()
    def _follow(self, masters: Iterable[nn.Parameter]) -> None:
        for master in masters:
            self._weights[master].copy_(master)

    def _portions(self) -> Iterator[list[nn.Parameter]]:
        """All masters, so many at a time that their gradients keep within `WIDE_GRADIENT_BYTES` (or one alone)."""
        portion: list[nn.Parameter] = []
        for master in self._weights:
            if portion and sum(_wide_bytes(each) for each in (*portion, master)) > WIDE_GRADIENT_BYTES:
                yield portion
                portion = []
            portion.append(master)
        yield portion


def _wide_bytes(master: Tensor) -> int:
    return master.numel() * master.element_size()
