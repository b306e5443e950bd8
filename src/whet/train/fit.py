"""How many steps fit a time budget: a few steps are measured before training, without touching any weight."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

from torch import Tensor

from whet.data.packing import to_device
from whet.parallel.reduce import any_over_ranks
from whet.shortage import release
from whet.train.laps import Laps
from whet.train.loop import Training
from whet.train.pass_size import PassSize
from whet.train.room import ShortageError
from whet.types import PackedBatch

NUM_MEASURED = 3


def measure_step_seconds(run: Training) -> float:
    """Median seconds of the forward and backward passes of the first three steps, after one warm-up micro-batch.

    Gradients are thrown away and dropout draws from no generator, so the run that follows is the same as without
    measuring. The update itself is not measured: for an adapter it is far below the noise. All ranks call it; where
    one runs out of memory, all measure again with smaller passes, and so begins the run.
    """
    seconds, shortage = _measure(run)
    run.optimizer.zero_grad(set_to_none=True)
    if any_over_ranks(shortage is not None):
        release()
        run.room.cut_smaller(run, 0, shortage)
        return measure_step_seconds(run)
    return seconds


def steps_that_fit(budget_seconds: float, seconds_per_step: float, *, at_most: int) -> int:
    """At least one step, at most `at_most`."""
    return max(1, min(at_most, int(budget_seconds / seconds_per_step)))


def _measure(run: Training) -> tuple[float, PassSize | None]:
    """Seconds of a step; or 0 and the pass that there was no memory for."""
    run.model.train()
    seconds = []
    try:
        _pass(run, step=0, num_micro_batches=1)
        for step in range(NUM_MEASURED):
            started = time.monotonic()
            _pass(run, step=step, num_micro_batches=run.plan.accumulation * run.room.at(0).num_parts)
            seconds.append(time.monotonic() - started)
    except ShortageError as error:
        return 0.0, error.size
    return statistics.median(seconds), None


def _pass(run: Training, *, step: int, num_micro_batches: int) -> None:
    batches = run.rows(step % run.plan.steps_per_epoch).batches[:num_micro_batches]
    one_pass = run.room.watched(partial(_one_pass, run, step), may_fail_alone=run.layout.mesh is None)
    if run.lanes is not None and len(batches) > 1 and not run.room.at(0).is_single:
        for _ in run.lanes.run(batches, one_pass, tuple(run.trainables.named.values()), run.laps):
            pass  # side by side, as the steps of the run make them
        return
    for batch in run.sharding.in_turn(batches):
        one_pass(batch, run.laps, Tensor.backward)


def _one_pass(
    run: Training, step: int, in_memory: PackedBatch, _laps: Laps, backward: Callable[[Tensor], None]
) -> Tensor:  # fmt: skip
    batch = to_device(in_memory, run.device)
    with run.dropout.micro_batch(step, batch):
        nll_sum = run.loss_model.nll_sum(batch)
        backward(nll_sum)
    return nll_sum.detach()
