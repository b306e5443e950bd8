"""How many steps fit a time budget: a few steps are measured before training, without touching any weight."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from whet.optim.build import build_optimizer
from whet.train.first_bad import own_part
from whet.train.laps import Laps
from whet.train.loop import Training, gradients_of_step

NUM_MEASURED = 3
COPIED_NUMBERS = 2**24
"""of what trains, for the timing of an update: 270 MB with gradients and moments, more than processors cache"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of one optimizer step, without what comes beside it (reading rows, checkpoints, evaluation)."""

    passes: float
    """forward and backward, the sum over ranks, the gradient norm"""
    update: float

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.passes + self.update


def measure_step(run: Training) -> StepTime:
    """Median of the first three steps' passes, after one warm-up micro-batch, and of three updates of copies.

    Gradients are thrown away, dropout draws from no generator, and an update is made of copies of what trains (of so
    many numbers as `COPIED_NUMBERS`, and taken for as much longer as there are more), so the run that follows is the
    same as without measuring. All ranks call it; where one runs out of memory, all measure again with smaller passes,
    and so begins the run.
    """
    # laps of its own: what is measured here counts in no step of the run
    timed = replace(run, laps=Laps(run.device))
    passes = _measure_passes(timed)
    with run.room.explained("the timing of an update"):
        update = _measure_update(timed)
    run.optimizer.zero_grad(set_to_none=True)
    return StepTime(passes=passes, update=update)


def steps_that_fit(budget_seconds: float, seconds_per_step: float, *, at_most: int) -> int:
    """At least one step, at most `at_most`."""
    return max(1, min(at_most, int(budget_seconds / seconds_per_step)))


def _measure_passes(run: Training) -> float:
    """Median seconds; gradients of the last measured step stay on the parameters."""
    steps = [run.rows(step % run.plan.steps_per_epoch) for step in range(NUM_MEASURED)]
    warm_up = replace(steps[0], batches=steps[0].batches[:1])
    seconds = []
    for taken in (warm_up, *steps):
        started = time.monotonic()
        (_, _, num_short, *_), shortage = gradients_of_step(run, taken)
        seconds.append(time.monotonic() - started)
        if num_short:
            run.room.cut_smaller(run, 0, shortage)
            return _measure_passes(run)
    return statistics.median(seconds[1:])


def _measure_update(run: Training) -> float:
    """Median seconds of an update of all that this rank trains, from the gradients that lie there."""
    copies, optimizer = _copies(run)
    seconds = []
    for _ in range(1 + NUM_MEASURED):
        started = time.monotonic()
        optimizer.step()
        _wait_for(run.device)
        seconds.append(time.monotonic() - started)
    whole = sum(own_part(parameter).numel() for parameter in run.trainables.named.values())
    return statistics.median(seconds[1:]) * whole / max(1, sum(copy.numel() for copy in copies.values()))


def _copies(run: Training) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    """Copies of the first `COPIED_NUMBERS` of this rank, with their gradients, and an optimizer of theirs."""
    masters: dict[str, nn.Parameter] = {}
    weights: dict[str, nn.Parameter] = {}
    room = COPIED_NUMBERS
    for name, parameter in run.trainables.named.items():
        if not room:
            break
        master = masters[name] = _copy(parameter, room)
        weight = run.trainables.weights.get(name)
        computed_with = parameter if weight is None else weight
        if weight is not None:
            weights[name] = _copy(weight, room)
        gradient = torch.zeros_like(computed_with) if computed_with.grad is None else computed_with.grad
        weights.get(name, master).grad = _copy(gradient, room).detach()
        room -= master.numel()
    return masters, build_optimizer(masters, run.optim, weights=weights)


def _copy(tensor: Tensor, most: int) -> nn.Parameter:
    """[N]: the first numbers of what this rank holds of `tensor`."""
    return nn.Parameter(own_part(tensor.detach()).reshape(-1)[:most].clone())


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
