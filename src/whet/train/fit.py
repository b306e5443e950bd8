"""How many steps fit a time budget: a few steps are measured before training, without touching any weight."""

from __future__ import annotations

import statistics
import time

from whet.data.packing import to_device
from whet.train.loop import Training

NUM_MEASURED = 3


def measure_step_seconds(run: Training) -> float:
    """Median seconds of the forward and backward passes of the first three steps, after one warm-up micro-batch.

    Gradients are thrown away and dropout draws from no generator, so the run that follows is the same as without
    measuring. The update itself is not measured: for an adapter it is far below the noise.
    """
    run.model.train()
    seconds = []
    _pass(run, step=0, num_micro_batches=1)
    for step in range(NUM_MEASURED):
        started = time.monotonic()
        _pass(run, step=step, num_micro_batches=run.plan.accumulation)
        seconds.append(time.monotonic() - started)
    run.optimizer.zero_grad(set_to_none=True)
    return statistics.median(seconds)


def steps_that_fit(budget_seconds: float, seconds_per_step: float, *, at_most: int) -> int:
    """At least one step, at most `at_most`."""
    return max(1, min(at_most, int(budget_seconds / seconds_per_step)))


def _pass(run: Training, *, step: int, num_micro_batches: int) -> None:
    batches = run.rows(step % run.plan.steps_per_epoch).batches[:num_micro_batches]
    for batch in (to_device(each, run.device) for each in run.sharding.in_turn(batches)):
        with run.dropout.micro_batch(step, batch):
            run.loss_model.nll_sum(batch).backward()
