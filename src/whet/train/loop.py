"""The loop and `train_step`: the same for LoRA and full fine-tuning, for one process and many.

What differs between them are the objects that `run.py` builds; nothing here asks which they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from whet import allocator
from whet.data.packing import to_device
from whet.data.sampler import Order
from whet.data.step_rows import StepRows, read_step
from whet.kernels.dropout import DropoutState
from whet.models.adapters import Trainables
from whet.optim.clip import clip_gradients
from whet.optim.schedule import lr_at
from whet.parallel.collective import awaited
from whet.parallel.env import Env
from whet.parallel.mesh import Layout
from whet.parallel.wrap import Sharding
from whet.recipe.schema import Optim
from whet.shortage import release
from whet.train.best import Best
from whet.train.callbacks import Callbacks, Requests
from whet.train.fixed_order import fixed_order
from whet.train.guard import Guard
from whet.train.held_out import is_due, measure
from whet.train.lanes import Lanes
from whet.train.laps import Laps
from whet.train.loss import LossModel
from whet.train.pace import Pace
from whet.train.pass_size import PassSize
from whet.train.prefetch import Prefetch
from whet.train.room import Room, ShortageError
from whet.train.saves import Saves
from whet.train.signals import StopRequest
from whet.train.step_sums import add_up
from whet.types import PackedBatch, RunPlan, StepRecord, TokenizedSample

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
    num_taught: np.ndarray
    """int32 [num_samples]: taught tokens of each sample"""
    order: Order
    """which samples every step takes"""
    validation: Sequence[TokenizedSample]
    live: Sequence[LiveSet]
    """evaluation sets that the model answers while it trains"""
    callbacks: Callbacks
    best: Best
    saves: Saves
    """writes checkpoints beside training"""
    layout: Layout
    """which rows this rank sees, and which part of the weights it holds"""
    sharding: Sharding = field(default_factory=Sharding)
    """gathers weights that lie in parts on several ranks"""
    split: frozenset[Tensor] = frozenset()
    """parameters that ranks which share layers hold in parts"""
    lanes: Lanes | None = None
    """runs several passes at a time; None = one after the other"""
    guard: Guard = field(default_factory=Guard)
    """judges every step before its update"""
    room: Room = field(default_factory=Room)
    """how finely passes are cut so that they fit into memory"""
    laps: Laps = field(default_factory=Laps)
    """where the time of a step goes"""
    pace: Pace = field(default_factory=Pace)
    """which rank holds the others up"""
    startup_seconds: Mapping[str, float] = field(default_factory=dict)
    """until the first step was done, by phase"""

    def rows(self, step: int) -> StepRows:
        """What 0-based `step` trains on, read now."""
        return read_step(
            self.samples,
            self.num_taught,
            self.order,
            self.plan,
            step,
            rank=self.layout.data_rank,
            num_parts=self.room.at(step).num_parts,
            left_out=self.guard.left_out(step),
            is_pinned=self.device.type == "cuda",
            fills_turns=self.layout.is_sharded,
        )


# docs: start-train
def train(run: Training, *, first_step: int, stop: StopRequest) -> int:
    """Train from 0-based step `first_step` to the end of the plan, until nothing gets better any more, or to a stop
    request; returns the steps done, with every checkpoint on the disk."""
    plan = run.plan
    run.callbacks.on_start(run, first_step)
    run.saves.start_after(first_step)
    done, asked = first_step, Requests()
    with run.saves, Prefetch(run.rows, range(first_step, plan.total_steps), run.device) as rows:
        # patience is looked at here, so that a run that was killed after its last step does not go on when continued
        while done < plan.total_steps and not run.best.is_out_of_patience:
            asked = replace(asked, is_writing=run.saves.is_writing())
            record, agreed = run.guard.step(run, done, train_step, asked, stop, rows)
            done += 1
            with run.laps("save"):
                run.saves.keep_up(done, is_writing=agreed.is_writing, save_every=plan.save_every)
            if record is not None:
                asked = run.callbacks.after_step(record)

            measured = measure(run, done, is_asked=agreed.evaluate)
            improved = measured is not None and run.best.note(measured)
            if measured is not None:
                run.callbacks.on_evaluated(measured)
            ends = agreed.stop or run.best.is_out_of_patience
            is_epoch_end = done % plan.steps_per_epoch == 0
            if improved or ends or is_epoch_end or agreed.save or is_due(done, plan.save_every, plan):
                with run.laps("save"):
                    run.saves.begin(done)
            if agreed.stop:
                break
        with run.laps("save"):
            run.saves.settle()
    if run.lanes is not None:
        run.lanes.close()
    run.callbacks.on_stop(done)
    return done


# docs: end-train


# docs: start-step
def train_step(
    run: Training, step: int, *, asked: Requests, stop: StopRequest, rows: Callable[[int], StepRows] | None = None,
    started: float | None = None,
) -> tuple[StepRecord | None, Requests]:  # fmt: skip
    """One optimizer step: every micro-batch's summed loss over the taught tokens of the whole step, then the update.

    The number of taught tokens is known to every rank before the first forward pass, because the order of samples
    is global; so loss and gradient do not depend on the micro-batch split or on the number of ranks. `rows` gives
    what a step trains on; without it they are read now. A GPU is waited for once, for all numbers before the update.
    Where a rank runs out of memory, all begin the step anew with smaller passes; `started`: when they first began it.
    """
    started, laps = started or time.monotonic(), run.laps
    plan = run.plan
    with laps("data"):
        taken = (rows or run.rows)(step)
        if taken.num_parts != run.room.at(step).num_parts:
            taken = run.rows(step)  # they were read ahead, before memory ran out
    if not taken.num_taught:  # the guard has left out all of its samples: the step is passed over
        return None, Requests(is_writing=True)

    def own() -> list[float]:
        return [asked.save, asked.evaluate, asked.stop or stop.is_set, asked.is_writing, *run.pace.slots()]

    of_all, shortage = gradients_of_step(run, taken, own)
    grad_norm, nll_total, num_short, save, evaluate, stop_now, writing, *seconds_of_ranks = of_all
    if num_short:
        run.room.cut_smaller(run, step, shortage)
        return train_step(run, step, asked=asked, stop=stop, started=started)
    run.pace.heard(seconds_of_ranks)
    loss = nll_total / taken.num_taught
    run.guard.check(run, taken, loss, grad_norm)

    with laps("optimizer"), run.room.explained(f"the update of step {step + 1}"):
        lr = lr_at(step, run.optim, total_steps=plan.total_steps, warmup_steps=plan.warmup_steps)
        for group in run.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        run.optimizer.step()

    times = laps.take(time.monotonic() - started)
    run.pace.finished(times)
    record = StepRecord(
        step=step + 1,
        epoch=(step + 1) / plan.steps_per_epoch,
        loss=loss,
        lr=lr,
        grad_norm=grad_norm,
        num_tokens=taken.num_tokens,
        num_taught=taken.num_taught,
        tokens_per_second=taken.num_tokens / times["seconds"],
        batch_hash=taken.batch_hash,
        straggler=run.pace.straggler,
        **times,
    )
    agreed = Requests(save=save > 0, evaluate=evaluate > 0, stop=stop_now > 0, is_writing=writing > 0)
    return record, agreed


def gradients_of_step(
    run: Training, taken: StepRows, own: Callable[[], Sequence[float]] = list
) -> tuple[list[float], PassSize | None]:
    """Leave the gradients of a step on its parameters, added up over all ranks and clipped.

    Returns their norm, the summed loss, how many ranks were short of memory and `own`, which is asked after the passes,
    all but the norm summed over ranks; and the pass that this rank had no memory for. Where any rank had none, the
    gradients and numbers of the others are worth nothing.
    """
    parameters = run.trainables.with_gradients
    nll, shortage = _add_up_passes(run, taken, parameters)
    with run.laps("communication"):
        numbers = _on_device([shortage is not None, *own()], run.device)
        numbers = add_up(parameters, run.split, run.layout, nll=nll, own=numbers)
    with run.laps("optimizer"), awaited():
        norm = clip_gradients(parameters, run.optim.max_grad_norm, squares=numbers[:1], split=run.split)
        return torch.cat([norm[None].double(), numbers[1:]]).tolist(), shortage


def _add_up_passes(run: Training, taken: StepRows, parameters: Sequence[Tensor]) -> tuple[Tensor, PassSize | None]:
    """The summed loss of this rank, with the gradients of its passes added up in the parameters.

    Where there was no memory for a pass, which one, and nothing is left of the others.
    """
    run.model.train()
    run.optimizer.zero_grad(set_to_none=True)
    run.room.note(taken.batches)
    nll = torch.zeros((), dtype=torch.float64, device=run.device)
    try:
        for nll_sum in _passes(run, taken, parameters):
            nll += nll_sum
            if run.device.type == "cpu":
                allocator.trim_near(run.plan.predicted_memory_bytes)
    except ShortageError as error:
        size = error.size
    else:
        return nll, None
    run.optimizer.zero_grad(set_to_none=True)
    release()
    return torch.zeros_like(nll), size


def _one_pass(
    run: Training, step: int, num_taught: int, in_memory: PackedBatch, laps: Laps, backward: Callable[[Tensor], None]
) -> Tensor:
    """Forward and backward pass of one micro-batch; its summed loss."""
    batch = to_device(in_memory, run.device)
    with run.dropout.micro_batch(step, batch):
        with laps("forward"):
            nll_sum = run.loss_model.nll_sum(batch)
        with laps("backward"), fixed_order(run.device):
            backward(nll_sum / num_taught)
    # without its graph, which would lie between the tensors of the next pass: a quarter more memory
    return nll_sum.detach()


# docs: end-step


def _passes(run: Training, taken: StepRows, parameters: Sequence[Tensor]) -> Iterator[Tensor]:
    """The loss of each pass, with the gradients added up in the parameters: one after the other, or in lanes."""
    whole = partial(_one_pass, run, taken.step, taken.num_taught)
    one_pass = run.room.watched(whole, may_fail_alone=run.layout.mesh is None)
    if run.lanes is None or run.room.at(taken.step).is_single:
        return (one_pass(batch, run.laps, Tensor.backward) for batch in run.sharding.in_turn(taken.batches))
    return run.lanes.run(taken.batches, one_pass, parameters, run.laps)


def _on_device(values: Sequence[float], device: torch.device) -> Tensor:
    """float64 [N]; a copy to a GPU starts here and is not waited for."""
    in_memory = torch.tensor(values, dtype=torch.float64, pin_memory=device.type == "cuda")
    return in_memory.to(device, non_blocking=True)
