"""Measurements on held-out rows between two steps: validation loss, and answers of the model as it is now.

They leave the run as it was: no gradient, no random state that training uses, and every step sets its own mode.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

import torch

from whet.data.packing import fill_turn, pack, to_device
from whet.parallel.reduce import broadcast_text, sum_over_ranks
from whet.shortage import in_halves
from whet.train.callbacks import EvalRecord
from whet.train.incidents import Incident
from whet.train.room import KIND
from whet.types import RunPlan, TokenizedSample

if TYPE_CHECKING:
    from whet.train.loop import Training


def measure(run: Training, step: int, *, is_asked: bool) -> EvalRecord | None:
    """All that is due after 1-based `step` or, with `is_asked`, all that there is; None when nothing is."""
    started = time.monotonic()
    metrics: dict[str, float] = {}
    if run.validation and (is_asked or is_due(step, run.plan.eval_every, run.plan)):
        metrics |= evaluate_loss(run, step)
    for live in run.live:
        if is_asked or is_due(step, live.every, run.plan):
            with run.sharding.whole():
                metrics |= live.measure(partial(_tell_shortage, run, step))
    if not metrics:
        return None
    # what is best and when to stop follows from these numbers: all ranks take rank 0's, to the last bit
    agreed = json.loads(broadcast_text(json.dumps(metrics)))
    return EvalRecord(step=step, metrics=agreed, seconds=time.monotonic() - started)


@torch.no_grad()
def evaluate_loss(run: Training, step: int = 0) -> dict[str, float]:
    """`loss` and `token_accuracy` over the validation rows: sums / taught tokens, which no batch size changes.

    After 1-based `step`, in passes as large as its own. A rank that runs out of memory halves rows, unless others take
    part in its passes.
    """
    run.model.eval()
    rows_per_batch = -(-run.plan.micro_batch // run.room.at(step - 1).num_parts)
    layout, starts = run.layout, range(0, len(run.validation), rows_per_batch)
    own = starts[layout.data_rank :: layout.num_data_ranks]
    # who shares weights takes part in every pass
    num_empty = -(-len(starts) // layout.num_data_ranks) - len(own) if layout.is_sharded else 0
    totals = [0.0, 0.0, 0.0, 0.0]
    with run.sharding.together():
        for start in own:
            rows = run.validation[start : start + rows_per_batch]
            found, num_halved = in_halves(rows, partial(_evaluate, run), may_halve=layout.mesh is None)
            totals = [sum(numbers) for numbers in zip(totals, (0.0, 0.0, 0.0, num_halved), *found, strict=True)]
        for _ in repeat(None, num_empty):
            run.loss_model.evaluate(to_device(fill_turn(), run.device))
    nll, num_taught, num_correct, num_halved_by_all = sum_over_ranks(totals, run.device, layout.data_group)
    if num_halved_by_all:
        _tell_shortage(run, step, "the validation loss was measured")
    return {"loss": nll / num_taught, "token_accuracy": num_correct / num_taught, "num_taught": int(num_taught)}


def _evaluate(run: Training, rows: Sequence[TokenizedSample]) -> tuple[float, int, int, int]:
    return *run.loss_model.evaluate(to_device(pack(rows, share_prefix=run.plan.share_prefix), run.device)), 0


def _tell_shortage(run: Training, step: int, doing: str) -> None:
    """All ranks call it, where any of them ran out."""
    text = f"after step {step}: out of memory while {doing}; rows were halved until they fitted"
    run.callbacks.on_incident(Incident(step=step, kind=KIND, text=text))


def is_due(step: int, every: int, plan: RunPlan) -> bool:
    """Whether something with cadence `every` (0 = never) happens after 1-based `step`; always at the last step."""
    return every > 0 and (step % every == 0 or step == plan.total_steps)
