"""The state of a training run <-> the files of a checkpoint. Tensors by name, everything else as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whet.checkpoint.load import Checkpoint, open_checkpoint
from whet.checkpoint.names import BEST
from whet.checkpoint.retention import prune, set_aside_later
from whet.checkpoint.save import copy_checkpoint, save_checkpoint
from whet.checkpoint.staging import Staging
from whet.errors import NonFiniteError, StorageError
from whet.estimate.hardware import free_memory_bytes
from whet.models.adapters import Trainables
from whet.optim.build import load_optimizer_tensors, optimizer_tensors
from whet.train.best import Best
from whet.train.callbacks import Callbacks
from whet.types import ModelIdentity, RunPlan

OPTIMIZER = "optimizer.safetensors"
ROUNDED = "rounded_factors.safetensors"
"""What the adapter file holds only up to rounding; there for adapters of several ranks only."""
RANDOM = "random_state.safetensors"
STATE = "trainer_state.json"
PLAN = "run_plan.json"
_SHARE_OF_FREE_MEMORY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Saver:
    """What the checkpoints of one run hold; all ranks restore them, rank 0 writes them."""

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
    files: Mapping[str, bytes]
    """the tokenizer's, so that a checkpoint folder can be loaded by itself"""
    staging: Staging = field(default_factory=Staging)
    """holds the one copy that is being written"""

    def hold(self, step: int) -> Callable[[], None]:
        """Copy the state as it is after 1-based `step`; returns what writes the copy, at any time before the next one.

        A copy that would take more than half of the free memory is not made: the state is written here and now.
        """
        state = {
            "global_step": step,
            "epoch": step / self.plan.steps_per_epoch,
            **self.best.state(),
            "callbacks": self.callbacks.state(),
            "base": asdict(self.identity),
            "data_fingerprint": self.data_fingerprint,
        }
        tensors = {
            self.trainables.weights_file: self.trainables.tensors(),
            OPTIMIZER: optimizer_tensors(self.optimizer, self.trainables.named),
            RANDOM: {"torch_cpu": torch.get_rng_state()},
            **({ROUNDED: rounded} if (rounded := self.trainables.rounded()) else {}),
        }
        # callbacks may go on changing what they gave: as text it stays
        write = partial(self._write, step, json.dumps(state, indent=1) + "\n", self.best.step == step)
        free = free_memory_bytes()
        if free is not None and self.staging.new_bytes(tensors) > _SHARE_OF_FREE_MEMORY * free:
            write(tensors)
            return _nothing
        copied = self.staging.copy(tensors)
        return lambda: write(copied())

    def _write(self, step: int, state: str, is_best: bool, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        folder = save_checkpoint(
            self.run_folder,
            step=step,
            tensors=tensors,
            documents={
                **self.trainables.documents,
                STATE: state,
                PLAN: asdict(self.plan),
                "recipe.yaml": self.recipe_yaml,
            },
            files=self.files,
        )
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
        """Put the weights of checkpoint-best in the place of the last ones; returns its step.

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
        self._load_weights(checkpoint)
        return checkpoint.step

    def _load_weights(self, checkpoint: Checkpoint) -> None:
        rounded = checkpoint.tensors(ROUNDED) if self.trainables.rounded() else {}
        self.trainables.load(checkpoint.tensors(self.trainables.weights_file), rounded)

    def restore(self, checkpoint: Checkpoint) -> int:
        """Put a checkpoint's state back; returns the 0-based step to go on with.

        StorageError when base weights or training rows are not those the checkpoint was made with.
        """
        state: dict[str, Any] = checkpoint.document(STATE)
        if state["base"]["weights_sha256"] != self.identity.weights_sha256:
            raise StorageError(
                f"was trained on other base weights ({state['base']['id']}, {state['base']['weights_sha256'][:12]}) "
                f"than these ({self.identity.id}, {self.identity.weights_sha256[:12]})",
                where=str(checkpoint.folder),
                mend="restore the base, or start anew with --fresh",
            )
        if state["data_fingerprint"] != self.data_fingerprint:
            raise StorageError(
                "the training rows or their tokens are not the ones this checkpoint was trained on",
                where=str(checkpoint.folder),
                mend="restore the data, or start anew with --fresh",
            )
        self._load_weights(checkpoint)
        load_optimizer_tensors(self.optimizer, self.trainables.named, checkpoint.tensors(OPTIMIZER))
        torch.set_rng_state(checkpoint.tensors(RANDOM)["torch_cpu"])
        self.callbacks.load_state(state["callbacks"])
        self.best.load_state(state)
        return int(state["global_step"])


def _nothing() -> None:
    """What is left to do of a checkpoint that is written."""
