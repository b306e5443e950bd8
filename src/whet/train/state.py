"""The state of a training run <-> the files of a checkpoint. Tensors by name, everything else as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from whet.checkpoint.load import Checkpoint, open_checkpoint
from whet.checkpoint.names import BEST, checkpoint_folder
from whet.checkpoint.retention import prune, set_aside_later
from whet.checkpoint.save import copy_checkpoint, save_checkpoint
from whet.checkpoint.sharded import Part, make_whole, write_part
from whet.checkpoint.staging import Staging
from whet.errors import NonFiniteError, StorageError
from whet.estimate.hardware import free_memory_bytes
from whet.models.adapters import Trainables
from whet.optim.build import optimizer_tensors
from whet.parallel.env import Env
from whet.train.best import Best
from whet.train.callbacks import Callbacks
from whet.train.room import Room
from whet.train.saved_documents import PLAN as PLAN
from whet.train.saved_documents import STATE as STATE
from whet.train.saved_documents import read_state
from whet.train.spread import OPTIMIZER, ROUNDED, Spread, load_moments, load_weights, split_state
from whet.types import ModelIdentity, RunPlan

RANDOM = "random_state.safetensors"
INPUTS = "inputs.json"
_SHARE_OF_FREE_MEMORY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Saver:
    """What the checkpoints of one run hold. All ranks restore them; rank 0 writes them, or each rank its own part."""

    run_folder: Path
    plan: RunPlan
    keep: int
    trainables: Trainables
    optimizer: torch.optim.Optimizer
    callbacks: Callbacks
    best: Best
    identity: ModelIdentity
    data_fingerprint: str
    recipe_yaml: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """inputs.json: what the run takes in, and which changes of it were accepted on the way"""
    files: Mapping[str, bytes]
    """the tokenizer's, so that a checkpoint folder can be loaded by itself"""
    staging: Staging = field(default_factory=Staging)
    """holds the one copy that is being written"""
    env: Env = field(default_factory=Env)
    spread: Spread | None = None
    """which part of what trains this rank holds; None: all of it"""
    room: Room = field(default_factory=Room)

    @property
    def is_sharded(self) -> bool:
        """Whether every rank writes its own part."""
        return self.spread is not None and not self.trainables.is_adapter

    def hold(self, step: int) -> Callable[[], str | None]:
        """Copy the state as it is after 1-based `step`; returns what writes the copy, at any time before the next one.

        With `spread` all ranks must call it. A copy that would take more than half of the free memory is not made: the
        state is written here and now. What is returned gives a report for `join` where ranks write parts.
        """
        state = {
            "global_step": step,
            "epoch": step / self.plan.steps_per_epoch,
            **self.best.state(),
            "cuts": self.room.state(),
            "callbacks": self.callbacks.state(),
            "base": asdict(self.identity),
            "data_fingerprint": self.data_fingerprint,
        }
        # callbacks may go on changing what they gave: as text it stays
        text = json.dumps(state, indent=1) + "\n"
        if self.spread is not None and self.is_sharded:
            return self._hold_part(step, text, self.spread)
        trainables, optimizer = self.trainables, optimizer_tensors(self.optimizer, self.trainables.named)
        if self.spread is not None:
            trainables, optimizer = self.spread.gathered(trainables), self.spread.whole(optimizer)
            if not self.env.is_main:
                return _nothing
        tensors = {
            trainables.weights_file: trainables.tensors(),
            OPTIMIZER: optimizer,
            RANDOM: {"torch_cpu": torch.get_rng_state()},
            **({ROUNDED: rounded} if (rounded := trainables.rounded()) else {}),
        }
        return self._staged(tensors, partial(self._write, step, text, self.best.step == step))

    def _hold_part(self, step: int, state: str, spread: Spread) -> Callable[[], str | None]:
        weights = self.trainables.tensors()
        moments, numbers = split_state(self.optimizer, self.trainables.named)
        alone: dict[str, dict[str, Tensor]] = (
            {OPTIMIZER: numbers, RANDOM: {"torch_cpu": torch.get_rng_state()}} if self.env.is_main else {}
        )
        part = Part(
            rank=spread.rank,
            num_ranks=spread.layout.world_size,
            blocks={"weights": spread.own_blocks(weights), "optimizer": spread.own_blocks(moments)},
            shapes=spread.shapes({**weights, **moments}),
            tensors=alone,
            documents=self._documents(state),
            files=self.files,
        )
        local: dict[str, dict[str, Tensor]] = {
            kind: {name: block.tensor for name, block in blocks.items()} for kind, blocks in part.blocks.items()
        }

        def write(copied: Mapping[str, Mapping[str, Tensor]]) -> str:
            blocks = {
                kind: {name: replace(block, tensor=copied[kind][name]) for name, block in named.items()}
                for kind, named in part.blocks.items()
            }
            own = replace(part, blocks=blocks, tensors={file: copied[file] for file in alone})
            return write_part(self.run_folder, step=step, part=own)

        return self._staged({**alone, **local}, write)

    def _staged(
        self, tensors: Mapping[str, Mapping[str, Tensor]],
        write: Callable[[Mapping[str, Mapping[str, Tensor]]], str | None],
    ) -> Callable[[], str | None]:  # fmt: skip
        """What writes a copy of `tensors`; without memory for a copy they are written at once."""
        free = free_memory_bytes()
        share = _SHARE_OF_FREE_MEMORY / (self.env.local_world_size if self.is_sharded else 1)
        if free is not None and self.staging.new_bytes(tensors) > share * free:
            report = write(tensors)
            return lambda: report
        copied = self.staging.copy(tensors)
        return lambda: write(copied())

    def _documents(self, state: str) -> dict[str, Any]:
        return {
            **self.trainables.documents,
            STATE: state,
            PLAN: asdict(self.plan),
            "recipe.yaml": self.recipe_yaml,
            INPUTS: dict(self.inputs),
        }

    def _write(self, step: int, state: str, is_best: bool, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        folder = save_checkpoint(
            self.run_folder, step=step, tensors=tensors, documents=self._documents(state), files=self.files
        )
        self._keep(folder, is_best=is_best)

    def join(self, step: int, reports: Sequence[str]) -> None:
        """Make a checkpoint of the parts that all ranks have written; rank 0 only."""
        folder = make_whole(self.run_folder, step=step, reports=reports)
        state: dict[str, Any] = Checkpoint(folder=folder, step=step).document(STATE)
        self._keep(folder, is_best=state["best_step"] == step)

    def _keep(self, folder: Path, *, is_best: bool) -> None:
        if is_best:
            copy_checkpoint(folder, self.run_folder / BEST)
        prune(self.run_folder, keep=self.keep)

    def go_on_from(self, checkpoint: Checkpoint, say: Callable[[str], None]) -> None:
        """Bring the run folder to the state right after `checkpoint`; rank 0 only.

        A crash may have come between the checkpoint and its copy to checkpoint-best.
        """
        if self.best.step == checkpoint.step:
            copy_checkpoint(checkpoint.folder, self.run_folder / BEST)
        if moved := set_aside_later(self.run_folder, step=checkpoint.step):
            say(f"checkpoints after step {checkpoint.step} were moved to {moved.name}")

    def load_best(self) -> int:
        """Put the weights of checkpoint-best in the place of the last ones; returns its step."""
        checkpoint = self.best_checkpoint()
        load_weights(self.trainables, checkpoint, self.spread)
        return checkpoint.step

    def end_with(self, final: Literal["last", "best"], *, done: int) -> tuple[int, Checkpoint | None]:
        """The step whose weights a run of `done` steps hands over, and where to read them if no rank has all of them.

        Errors as of `best_checkpoint`.
        """
        if self.spread is None:
            return (self.load_best() if final == "best" else done), None
        last = Checkpoint(folder=checkpoint_folder(self.run_folder, done), step=done)
        checkpoint = self.best_checkpoint() if final == "best" else last
        return checkpoint.step, checkpoint

    def best_checkpoint(self) -> Checkpoint:
        """checkpoint-best, verified.

        NonFiniteError when no measurement was finite, so that there is none; StorageError when it was damaged.
        """
        if self.best.step is None:
            raise NonFiniteError(
                f"no measurement of {self.best.name} was finite, so no checkpoint is the best",
                where=str(self.run_folder),
                mend="train anew with train.final=last, or with a lower optim.lr (--fresh)",
            )
        checkpoint = open_checkpoint(self.run_folder / BEST)
        if checkpoint.step != self.best.step:
            raise StorageError(
                f"is step {checkpoint.step}, but step {self.best.step} was the best",
                where=str(checkpoint.folder),
                mend="remove it and continue from the checkpoint of that step, or start anew with --fresh",
            )
        return checkpoint

    def restore(self, checkpoint: Checkpoint) -> int:
        """Put a checkpoint's state back; returns the 0-based step to go on with. `Inputs` has looked at it before."""
        state = read_state(checkpoint)
        load_weights(self.trainables, checkpoint, self.spread)
        load_moments(self.optimizer, self.trainables, checkpoint, self.spread)
        torch.set_rng_state(checkpoint.tensors(RANDOM)["torch_cpu"])
        self.callbacks.load_state(state["callbacks"])
        self.best.load_state(state)
        self.room.load(state.get("cuts", ()), self.plan)
        return int(state["global_step"])


def _nothing() -> None:
    """What is left to do of a checkpoint that is written."""
