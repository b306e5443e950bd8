"""A tiny training with a guard, a listener for what it tells, and faults planted in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import IDENTITY, LORA, build_training, make_plan, make_samples, tiny_llama

from whet.parallel.env import Env
from whet.recipe.schema import Adapter
from whet.recipe.schema import Guard as Settings
from whet.train.callbacks import Callback, QuietCallback, Requests
from whet.train.guard import Guard
from whet.train.incidents import Incident
from whet.train.loop import Training, train
from whet.train.saves import Saves
from whet.train.signals import StopRequest
from whet.train.state import Saver
from whet.types import StepRecord

SAMPLES = make_samples([7, 4, 9, 5, 6, 3, 8, 5] * 3)
"""six steps of four in an epoch"""
DROPOUT = dataclasses.replace(LORA, dropout=0.2)


class Listener(QuietCallback):
    """Keeps what it is told."""

    name = "listener"

    def __init__(self) -> None:
        self.records: list[StepRecord] = []
        self.incidents: list[Incident] = []

    def after_step(self, record: StepRecord) -> Requests:
        self.records.append(record)
        return Requests()

    def on_incident(self, incident: Incident) -> None:
        self.incidents.append(incident)

    @property
    def trajectory(self) -> list[tuple[Any, ...]]:
        return [(r.step, r.loss, r.lr, r.grad_norm, r.num_taught, r.batch_hash) for r in self.records]


def guarded(
    settings: Settings | None, *, adapter: Adapter | None = DROPOUT, total_steps: int = 12, folder: Path | None = None,
    callbacks: Sequence[Callback] = (), save_every: int = 0, **building: Any,
) -> tuple[Training, Listener]:  # fmt: skip
    """Two epochs of six steps, two passes each; with `folder` its checkpoints are written there."""
    listener = Listener()
    guard = Guard(settings, run_folder=folder)
    plan = make_plan(len(SAMPLES), micro_batch=2, global_batch=4, total_steps=total_steps)
    training = build_training(
        tiny_llama(torch.float32), SAMPLES, dataclasses.replace(plan, save_every=save_every), adapter=adapter,
        callbacks=[listener, guard, *callbacks], **building,
    )  # fmt: skip
    training = dataclasses.replace(training, guard=guard)
    if folder is not None:
        saves = Saves(saver_of(training, folder).hold, run_folder=folder, env=Env(), callbacks=training.callbacks)
        training = dataclasses.replace(training, saves=saves)
    return training, listener


def saver_of(training: Training, folder: Path) -> Saver:
    """What writes and restores the checkpoints of `training`."""
    return Saver(
        run_folder=folder, plan=training.plan, keep=99, trainables=training.trainables, optimizer=training.optimizer,
        callbacks=training.callbacks, best=training.best, identity=IDENTITY, data_fingerprint="", recipe_yaml="",
        files={},
    )  # fmt: skip


def run(training: Training, first_step: int = 0) -> int:
    """To the end."""
    return train(training, first_step=first_step, stop=StopRequest())


def ids_of(training: Training, step: int) -> list[str]:
    """Samples of a 0-based step, in order."""
    return [SAMPLES[i].id for i in training.order.step(training.plan, step).indices]


def state_of(training: Training) -> dict[str, torch.Tensor]:
    """Copies of weights and moments."""
    state = {name: p.detach().clone() for name, p in training.trainables.named.items()}
    for name, parameter in training.trainables.named.items():
        for key, value in training.optimizer.state.get(parameter, {}).items():
            state[f"{name}.{key}"] = value.clone()
    return state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states have the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
