"""Nothing that is not finite is saved: weights and moments are looked at before every checkpoint, on all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from whet.errors import NonFiniteError
from whet.models.adapters import Trainables
from whet.parallel.reduce import gather_texts
from whet.train.first_bad import broken_names, own_part


def state_tensors(trainables: Trainables, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """What trains and the optimizer's state of it, by name, on the run's own memory; this rank's parts."""
    for name, parameter in trainables.named.items():
        yield name, own_part(parameter.detach())
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                yield f"{name}.{key}", own_part(value)


def first_broken(trainables: Trainables, optimizer: torch.optim.Optimizer) -> str:
    """The first of these that holds a NaN or an infinity on any rank, else an empty text; all ranks must call it."""
    own = broken_names(state_tensors(trainables, optimizer))
    return next((name for name in gather_texts(own[0] if own else "") if name), "")


def refuse_broken(trainables: Trainables, optimizer: torch.optim.Optimizer, run_folder: Path, step: int) -> None:
    """NonFiniteError, on all ranks, where the state after 1-based `step` must not be saved; all ranks must call it."""
    if name := first_broken(trainables, optimizer):
        raise NonFiniteError(
            f"after step {step} {name} holds NaN or infinity; nothing of it was saved",
            where=str(run_folder),
            mend="lower optim.lr and continue from the last checkpoint, which is finite",
        )
