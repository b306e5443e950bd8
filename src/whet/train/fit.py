"""How many steps fit a time budget: a few are measured before training, without touching any weight."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from whet.estimate.disk import num_checkpoints
from whet.models.families import shape_from_config
from whet.models.load import LoadedModel
from whet.optim.build import build_optimizer
from whet.parallel.reduce import broadcast_text
from whet.recipe.resolve import resolve
from whet.recipe.schema import Recipe
from whet.train.disk_need import disk_need
from whet.train.first_bad import own_part
from whet.train.laps import Laps
from whet.train.loop import Training, gradients_of_step
from whet.train.preflight import FOLLOWS_LENGTH
from whet.train.save_pace import measure_save_pace
from whet.types import RunPlan

NUM_MEASURED = 3
SAVED_SHARE = 0.1
"""of the time of the steps, that checkpoints may take"""
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


def fitted_plan(
    recipe: Recipe, training: Training, loaded: LoadedModel, run_folder: Path, say: Callable[[str], None]
) -> RunPlan:
    """The plan with the steps that fit `train.fit_seconds`: measured, and the same on all ranks, which all call it."""
    budget = recipe.train.fit_seconds
    assert budget is not None
    say(f"timing a few steps, to see how many fit into {budget:g} s (train.fit_seconds)")
    step = measure_step(training).seconds
    save = _seconds_of_a_save(recipe, training, loaded, run_folder, step) if training.env.is_main else 0.0
    step, save = map(float, broadcast_text(f"{step!r} {save!r}").split())
    plan = plan_that_fits(recipe, training.plan, step_seconds=step, save_seconds=save)
    count = num_checkpoints(plan)
    saves = f" and {save:.1f} s per checkpoint, of which there are {count}" if save * count > budget / 100 else ""
    say(f"{step:.2f} s per step{saves}: {plan.total_steps} steps fit the time budget")
    return plan


def _seconds_of_a_save(
    recipe: Recipe, training: Training, loaded: LoadedModel, run_folder: Path, step_seconds: float
) -> float:  # fmt: skip
    """That a checkpoint may add to the time of the steps."""
    shape = shape_from_config(loaded.model.config.to_dict())
    whole = disk_need(recipe, shape, compute_bytes=loaded.compute_dtype.itemsize).checkpoint_bytes
    is_spread = training.layout.is_sharded or training.layout.num_tensor_ranks > 1
    is_shared = is_spread and not training.trainables.is_adapter
    num_bytes = whole // training.env.world_size if is_shared else whole
    return measure_save_pace(run_folder, num_bytes, training.device).waits(num_bytes, step_seconds)[1]


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


def plan_that_fits(recipe: Recipe, plan: RunPlan, *, step_seconds: float, save_seconds: float) -> RunPlan:
    """`plan` with as many steps as `train.fit_seconds` has room for, checkpoints included: at least one, at most its
    own. Where the recipe does not say how often to save, checkpoints take a tenth of the steps' time at the most.

    `save_seconds`: what a checkpoint adds to the time of the steps.
    """
    budget = recipe.train.fit_seconds
    assert budget is not None
    sparing = math.ceil(save_seconds / (SAVED_SHARE * step_seconds))
    steps = max(1, min(plan.total_steps, int(budget / step_seconds)))
    while True:
        cut = resolve(
            recipe, world_size=plan.world_size, num_samples=plan.num_samples, micro_batch=plan.micro_batch,
            max_steps_override=steps,
        )  # fmt: skip
        lengths = {name: getattr(cut, name) for name in FOLLOWS_LENGTH}
        lengths["save_every"] = recipe.train.save_every or max(cut.save_every, sparing)
        cut = replace(plan, **lengths, measured_seconds_per_step=step_seconds)
        excess = steps * step_seconds + num_checkpoints(cut) * save_seconds - budget
        if excess <= 0 or steps == 1:
            return cut
        steps = max(1, steps - max(1, int(excess / (step_seconds + save_seconds))))


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
