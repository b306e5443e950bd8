"""Numbers that go wrong for chosen samples in one module of a model that trains: in its output, or in its gradient.

Used in a process of its own, this file is the command line with such a fault in it:

    python planted.py '{"module": "norm", "kind": "backward", "factor": 1e6, "pass": 3}' train recipe.yaml

chooses the last sample of the 0-based pass that is named and writes its id into planted-RANK.txt.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from whet.train.loss import LossModel
from whet.types import PackedBatch

Kind = Literal["forward", "backward"]


class _Scaled(torch.autograd.Function):
    """The same numbers; gradients of some tokens are multiplied."""

    @staticmethod
    def forward(ctx: Any, x_1TC: Tensor, mask_T: Tensor, factor: float) -> Tensor:
        ctx.mask_T, ctx.factor = mask_T, factor
        return x_1TC.view_as(x_1TC)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient_1TC = gradients[0].clone()
        gradient_1TC[:, ctx.mask_T] *= ctx.factor
        return gradient_1TC, None, None


class Planted:
    """A fault in `module` (by its name in the backbone) for the samples that `is_chosen` says; `times` passes long."""

    def __init__(
        self, loss_model: LossModel, *, module: str, kind: Kind, is_chosen: Callable[[Sequence[str]], Sequence[bool]],
        factor: float = float("nan"), times: int | None = None,
    ) -> None:  # fmt: skip
        """Forward, an output is multiplied by `factor`; backward, its gradient."""
        self.num_acted = 0
        self._times, self._kind, self._factor, self._is_chosen = times, kind, factor, is_chosen
        self._mask_T: Tensor | None = None
        self._nll_sum = loss_model.nll_sum
        loss_model.nll_sum = self._noted  # type: ignore[method-assign]
        loss_model.backbone.get_submodule(module).register_forward_hook(self._break)

    def _noted(self, batch: PackedBatch) -> Tensor:
        chosen = self._is_chosen(batch.sample_ids)
        lengths = torch.tensor([batch.shared_prefix, *batch.lengths])
        mask_T = torch.repeat_interleave(torch.tensor([False, *chosen]), lengths)
        is_on = bool(mask_T.any()) and (self._times is None or self.num_acted < self._times)
        self._mask_T = mask_T if is_on else None
        self.num_acted += is_on
        return self._nll_sum(batch)

    def _break(self, _module: Any, _args: Any, output: Any) -> Any:
        if self._mask_T is None:
            return None
        x_1TC = output[0] if isinstance(output, tuple) else output
        if self._kind == "backward":
            broken = _Scaled.apply(x_1TC, self._mask_T, self._factor)
        else:
            broken = torch.where(self._mask_T[None, :, None], x_1TC * self._factor, x_1TC)
        return (broken, *output[1:]) if isinstance(output, tuple) else broken


def plant(loss_model: LossModel, *sample_ids: str, **fault: Any) -> Planted:
    """A fault for the samples of these ids."""
    return Planted(loss_model, is_chosen=lambda ids: [each in sample_ids for each in ids], **fault)


class _OfOnePass:
    """Chooses the last sample of one pass, and that sample from then on."""

    def __init__(self, number: int) -> None:
        self._number, self._num_passes, self._chosen = number, 0, ""

    def __call__(self, sample_ids: Sequence[str]) -> list[bool]:
        if self._num_passes == self._number:
            self._chosen = sample_ids[-1]
            Path(f"planted-{os.environ.get('RANK', '0')}.txt").write_text(self._chosen, encoding="utf-8")
        self._num_passes += 1
        return [each == self._chosen for each in sample_ids]


def main() -> None:
    """The command line, with a fault in the model of the rank that the first argument names (all: none named)."""
    fault = json.loads(sys.argv.pop(1))
    if os.environ.get("RANK", "0") == str(fault.pop("rank", os.environ.get("RANK", "0"))):
        chooser = _OfOnePass(fault.pop("pass"))
        build = LossModel.__init__

        def planted(self: LossModel, **settings: Any) -> None:
            build(self, **settings)
            Planted(self, is_chosen=chooser, **fault)

        LossModel.__init__ = planted  # type: ignore[method-assign]
    from whet.cli.main import main as whet_main

    whet_main()


if __name__ == "__main__":
    main()
