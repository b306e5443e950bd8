"""Measurements on held-out rows between two steps: validation loss, and answers of the model as it is now.

They leave the run as it was: no gradient, no random state that training uses, and every step sets its own mode.
"""

from __future__ import annotations

import json
import time
from itertools import chain, repeat
from typing import TYPE_CHECKING

import torch

from whet.data.packing import fill_turn, pack, to_device
from whet.parallel.reduce import broadcast_text, sum_over_ranks
from whet.train.callbacks import EvalRecord
from whet.types import RunPlan

if TYPE_CHECKING:
    from whet.train.loop import Training


def measure(run: Training, step: int, *, is_asked: bool) -> EvalRecord | None:
    """All that is due after 1-based `step` or, with `is_asked`, all that there is; None when nothing is."""
    started = time.monotonic()
    metrics: dict[str, float] = {}
    if run.validation and (is_asked or is_due(step, run.plan.eval_every, run.plan)):
        metrics |= evaluate_loss(run)
    for live in run.live:
        if is_asked or is_due(step, live.every, run.plan):
            with run.sharding.whole():
                metrics |= live.measure()
    if not metrics:
        return None
    # what is best and when to stop follows from these numbers: all ranks take rank 0's, to the last bit
    agreed = json.loads(broadcast_text(json.dumps(metrics)))
    return EvalRecord(step=step, metrics=agreed, seconds=time.monotonic() - started)


@torch.no_grad()
def evaluate_loss(run: Training) -> dict[str, float]:
    """`loss` and `token_accuracy` over the validation rows: sums / taught tokens, which no batch size changes."""
    run.model.eval()
    rows_per_batch = run.plan.micro_batch
    layout, starts = run.layout, range(0, len(run.validation), rows_per_batch)
    own = starts[layout.data_rank :: layout.num_data_ranks]
    batches = (pack(run.validation[i : i + rows_per_batch], share_prefix=run.plan.share_prefix) for i in own)
    # who shares weights takes part in every pass
    num_empty = -(-len(starts) // layout.num_data_ranks) - len(own) if layout.is_sharded else 0
    totals = [0.0, 0.0, 0.0]
    with run.sharding.together():
        for batch in chain(batches, repeat(fill_turn(), num_empty)):
            found = run.loss_model.evaluate(to_device(batch, run.device))
            totals = [t + x for t, x in zip(totals, found, strict=True)]
    nll, num_taught, num_correct = sum_over_ranks(totals, run.device, layout.data_group)
    return {"loss": nll / num_taught, "token_accuracy": num_correct / num_taught, "num_taught": int(num_taught)}


def is_due(step: int, every: int, plan: RunPlan) -> bool:
    """Whether something with cadence `every` (0 = never) happens after 1-based `step`; always at the last step."""
    return every > 0 and (step % every == 0 or step == plan.total_steps)
