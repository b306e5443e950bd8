"""The callback `spectral`: every so often, after the update, all adapter pairs are refactored (models/spectral.py).

It acts once per optimizer step, when no gradient is pending, and draws nothing at random; what it does depends on the
step and the state alone, so a resumed run does the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from whet.models.spectral import Refactored, product_distance, refactor, share_of_mean
from whet.parallel.reduce import broadcast_from_main
from whet.recipe import schema
from whet.recipe.cadence import acts_after, acts_at_all
from whet.train.callbacks import QuietCallback, Requests
from whet.types import StepRecord

if TYPE_CHECKING:
    from whet.train.loop import Training


class Spectral(QuietCallback):
    """Refactors the adapter after the steps that `recipe.cadence` names; each time one event says what it did."""

    name = "spectral"
    changes_weights = True

    def __init__(self, settings: schema.Callback) -> None:
        self._settings = settings
        self._run: Training | None = None

    def on_start(self, run: Training, step: int) -> None:
        self._run, total = run, run.plan.total_steps
        if not acts_at_all(self._settings, total_steps=total):
            run.callbacks.on_event(step, f"spectral: none of the {total} steps refactors the adapter")

    def after_step(self, record: StepRecord) -> Requests:
        run, settings = self._run, self._settings
        assert run is not None, "on_start comes first"
        if acts_after(settings, record.step, total_steps=run.plan.total_steps):
            started = time.monotonic()
            share, how = 0.0, "exact"
            if settings.mode == "balanced":
                share = share_of_mean(record.step, run.plan.total_steps, settings.balance)
                how = f"balanced with lambda {share:.3f}"
            moved = refactor_adapter(run, share=share, second_moments=settings.second_moments)
            said = f"spectral, {how}: {sentence(moved)}; {time.monotonic() - started:.2f} s"
            run.callbacks.on_event(record.step, said)
        return Requests()


@torch.no_grad()
def refactor_adapter(run: Training, *, share: float, second_moments: str) -> list[float | None]:
    """Refactor every pair of `run` and its moments in place, to the same bits on all ranks.

    Returns per pair how far BA moved (relative Frobenius norm), None for a pair that is left alone.
    """
    moved: list[float | None] = []
    pairs = factor_pairs(run.trainables.named)
    for a_RI, b_OR in pairs:
        new = refactor(b_OR, a_RI, share_of_mean=share)
        if new is None:
            moved.append(None)
            continue
        old_b, old_a = b_OR.clone(), a_RI.clone()
        b_OR.copy_(new.b_OR)
        a_RI.copy_(new.a_RI)
        _put_moments(run.optimizer.state[b_OR], run.optimizer.state[a_RI], new, second_moments)
        moved.append(product_distance(old_b, old_a, b_OR, a_RI))
    # all ranks compute the same; but on unlike processors rounding may turn a singular vector around
    broadcast_from_main(_with_moments(pairs, run.optimizer))
    return moved


def factor_pairs(named: Mapping[str, nn.Parameter]) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """(A, B) of every adapted layer, in the order of the names."""
    return [(named[n], named[n.replace(".lora_A.", ".lora_B.")]) for n in named if ".lora_A." in n]


def sentence(moved: Sequence[float | None]) -> str:
    """What `refactor_adapter` did, for people."""
    distances = [m for m in moved if m is not None]
    text = f"{len(distances)} pairs refactored"
    if distances:
        text += f", BA moved by at most {max(distances):.1e} of its norm"
    if num_left := len(moved) - len(distances):
        text += f", {num_left} left alone because BA is not of full rank"
    return text


def _put_moments(b: dict[str, Any], a: dict[str, Any], new: Refactored, second_moments: str) -> None:
    """Adam's state of B and A in the new coordinates, in place."""
    if second_moments == "clear":
        for value in (*b.values(), *a.values()):
            value.zero_()
        return
    b["exp_avg"].copy_(b["exp_avg"].double() @ new.b_moments_RR)
    a["exp_avg"].copy_(new.a_moments_RR @ a["exp_avg"].double())
    if second_moments == "map":
        b["exp_avg_sq"].copy_(b["exp_avg_sq"].double() @ new.b_moments_RR.square())
        a["exp_avg_sq"].copy_(new.a_moments_RR.square() @ a["exp_avg_sq"].double())


def _with_moments(
    pairs: Sequence[tuple[nn.Parameter, nn.Parameter]], optimizer: torch.optim.Optimizer
) -> Iterator[Tensor]:
    for parameter in (p for pair in pairs for p in pair):
        yield parameter
        yield from optimizer.state[parameter].values()
