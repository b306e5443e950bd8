"""The loop and `train_step`: the same for LoRA and full fine-tuning, for one process and many.

What differs between them are the objects that `run.py` builds; nothing here asks which they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from whet.data.packing import pack
from whet.data.sampler import Order, batch_hash
from whet.errors import NonFiniteError
from whet.kernels.dropout import DropoutState
from whet.models.adapters import Trainables
from whet.optim.schedule import lr_at
from whet.parallel.env import Env
from whet.parallel.reduce import all_reduce_step
from whet.recipe.schema import Optim
from whet.train.best import Best
from whet.train.callbacks import Callbacks, Requests
from whet.train.held_out import is_due, measure
from whet.train.loss import LossModel
from whet.train.signals import StopRequest
from whet.types import RunPlan, StepRecord, TokenizedSample

if TYPE_CHECKING:
    from whet.evaluation.live import LiveSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Everything one run needs, built by `run.py`."""

    plan: RunPlan
    optim: Optim
    env: Env
    device: torch.device
    model: nn.Module
    """switched between training and evaluation mode"""
    loss_model: LossModel
    kernels: Mapping[str, str]
    """which fast paths run, for the summary"""
    trainables: Trainables
    optimizer: torch.optim.Optimizer
    dropout: DropoutState
    samples: Sequence[TokenizedSample]
    order: Order
    """which samples every step takes"""
    validation: Sequence[TokenizedSample]
    live: Sequence[LiveSet]
    """evaluation sets that the model answers while it trains"""
    callbacks: Callbacks
    best: Best
    save: Callable[[int], Path]
    """write the checkpoint of a step (all ranks call it; rank 0 writes)"""


# docs: start-train
def train(run: Training, *, first_step: int, stop: StopRequest) -> int:
    """Train from 0-based step `first_step` to the end of the plan, until nothing gets better any more, or to a stop
    request; returns the steps done."""
    plan = run.plan
    run.callbacks.on_start(run, first_step)
    done, asked = first_step, Requests()
    # patience is looked at here, so that a run that was killed after its last step does not go on when it is continued
    while done < plan.total_steps and not run.best.is_out_of_patience:
        record, agreed = train_step(run, done, asked=asked, stop=stop)
        done = record.step
        asked = run.callbacks.after_step(record)

        measured = measure(run, done, is_asked=agreed.evaluate)
        improved = measured is not None and run.best.note(measured)
        if measured is not None:
            run.callbacks.on_evaluated(measured)
        ends = agreed.stop or run.best.is_out_of_patience
        is_epoch_end = done % plan.steps_per_epoch == 0
        if improved or ends or is_epoch_end or agreed.save or is_due(done, plan.save_every, plan):
            run.callbacks.on_checkpoint_saved(done, run.save(done))
        if agreed.stop:
            break
    run.callbacks.on_stop(done)
    return done


# docs: end-train


# docs: start-step
def train_step(run: Training, step: int, *, asked: Requests, stop: StopRequest) -> tuple[StepRecord, Requests]:
    """One optimizer step: every micro-batch's summed loss over the taught tokens of the whole step, then the update.

    The number of taught tokens is known to every rank before the first forward pass, because the order of samples
    is global; so loss and gradient do not depend on the micro-batch split or on the number of ranks.
    """
    started = time.monotonic()
    plan = run.plan
    this_step = run.order.step(plan, step)
    read = {i: run.samples[i] for i in this_step.indices}
    samples = [read[i] for i in this_step.indices]
    num_taught = sum(s.num_taught for s in samples)

    run.model.train()
    run.optimizer.zero_grad(set_to_none=True)
    nll = torch.zeros((), dtype=torch.float64, device=run.device)
    for one_pass in this_step.of_rank(run.env.rank, plan.world_size):
        if len(one_pass) == 0:
            continue
        batch = pack([read[i] for i in one_pass], run.device)
        with run.dropout.micro_batch(step, batch):
            nll_sum = run.loss_model.nll_sum(batch)
            (nll_sum / num_taught).backward()
        nll += nll_sum.detach()

    parameters = list(run.trainables.named.values())
    numbers = [float(nll), asked.save, asked.evaluate, asked.stop or stop.is_set]
    nll_total, save, evaluate, stop_now = all_reduce_step(parameters, numbers)
    grad_norm = float(nn.utils.clip_grad_norm_(parameters, run.optim.max_grad_norm or math.inf))
    loss = nll_total / num_taught
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise _non_finite(step, loss, grad_norm, samples)

    lr = lr_at(step, run.optim, total_steps=plan.total_steps, warmup_steps=plan.warmup_steps)
    for group in run.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    run.optimizer.step()

    seconds = time.monotonic() - started
    num_tokens = sum(s.num_tokens for s in samples)
    record = StepRecord(
        step=step + 1,
        epoch=(step + 1) / plan.steps_per_epoch,
        loss=loss,
        lr=lr,
        grad_norm=grad_norm,
        num_tokens=num_tokens,
        num_taught=num_taught,
        seconds=seconds,
        tokens_per_second=num_tokens / seconds,
        batch_hash=batch_hash([s.id for s in samples]),
    )
    return record, Requests(save=save > 0, evaluate=evaluate > 0, stop=stop_now > 0)


# docs: end-step


def _non_finite(step: int, loss: float, grad_norm: float, samples: Sequence[TokenizedSample]) -> NonFiniteError:
    shown = ", ".join(s.id for s in samples[:4]) + (" ..." if len(samples) > 4 else "")
    return NonFiniteError(
        f"step {step + 1}: loss {loss}, gradient norm {grad_norm}; stopped before the update",
        where=f"samples {shown}",
        mend="look at these rows, lower optim.lr, or continue from the last checkpoint with another seed",
    )
