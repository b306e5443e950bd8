"""What an optimizer step gave, to the last bit, and the first thing in which two such steps differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from whet.optim.build import optimizer_tensors
from whet.train.first_bad import own_part
from whet.types import StepRecord

if TYPE_CHECKING:
    from whet.train.loop import Training

_CHUNK = 1 << 22
"""elements that are widened at a time"""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_NAMES = {
    "batch_hash": "the batch (which samples)",
    "rows": "the rows (their tokens or taught marks)",
    "lr": "the learning rate",
    "loss": "the loss",
    "grad_norm": "the gradient norm",
    "weights": "the weights after the update",
    "moments": "the optimizer's moments after the update",
}
"""in the order in which one follows from the other"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBits:
    """One optimizer step. Numbers are compared as they are: equal means equal to the last bit."""

    step: int
    """1 for the first update"""
    batch_hash: str
    lr: float
    loss: float
    grad_norm: float
    rows: str = ""
    """16 hex digits over tokens and taught marks of its samples in order; empty: not known"""
    weights: tuple[str, ...] = ()
    """of each rank, 16 hex digits over what trains; empty: not known"""
    moments: tuple[str, ...] = ()
    """likewise over the optimizer's state"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first thing in which a step differs from the one it should be."""

    step: int
    name: str
    """a field of StepBits"""
    then: Any
    now: Any

    @property
    def sentence(self) -> str:
        """`step 7 differs in the loss: 5.25 then, 5.5 now`."""
        shown = "" if self.name in ("weights", "moments", "rows") else f": {self.then!r} then, {self.now!r} now"
        return f"step {self.step} differs in {_NAMES[self.name]}{shown}"


def first_difference(then: StepBits, now: StepBits) -> Difference | None:
    """None where all that is known of `then` is so now; ranks are compared where there are as many."""
    for name in _NAMES:
        before, after = getattr(then, name), getattr(now, name)
        is_known = before not in ("", ()) and after not in ("", ())
        if isinstance(before, tuple) and len(before) != len(after):
            is_known = False
        if is_known and before != after:
            return Difference(step=then.step, name=name, then=before, now=after)
    return None


def bits_from(line: Mapping[str, Any]) -> StepBits | None:
    """The step of a line of metrics.jsonl or witness.jsonl; None where it is no such line."""
    known = {field.name for field in fields(StepBits)}
    needed = {"step": int, "batch_hash": str, "lr": float, "loss": float, "grad_norm": float}
    if not all(isinstance(line.get(name), kind) for name, kind in needed.items()):
        return None
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in line.items()}
    return StepBits(**{name: value for name, value in values.items() if name in known})


def bits_of_record(record: StepRecord) -> StepBits:
    """What a step tells of itself."""
    return StepBits(
        step=record.step, batch_hash=record.batch_hash, lr=record.lr, loss=record.loss, grad_norm=record.grad_norm
    )


def bits_of_state(run: Training) -> tuple[str, str]:
    """16 hex digits over what trains on this rank, and over its moments."""
    named = run.trainables.named
    return fingerprint(run.trainables.all_values), fingerprint(optimizer_tensors(run.optimizer, named))


def bits_of_rows(run: Training, step: int) -> str:
    """16 hex digits over tokens and taught marks of all samples of 0-based `step`, in the global order."""
    digest = hashlib.sha256()
    for index in run.order.step(run.plan, step).indices.tolist():
        sample = run.samples[index]
        digest.update(sample.ids.astype("<i4").tobytes() + sample.taught.astype("u1").tobytes() + b"|")
    return digest.hexdigest()[:16]


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits over names, shapes and bits; of a tensor in parts (DTensor) over this rank's part."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        own = own_part(tensor)
        digest.update(f"{name} {tuple(own.shape)} {own.dtype} {checksum(own):x}\n".encode())
    return digest.hexdigest()[:16]


@torch.no_grad()
def checksum(tensor: Tensor) -> int:
    """Sum of (2 i + 1) b_i modulo 2^64 over the bits b_i of element i, computed where the tensor lies.

    Integers, so that no order of addition changes it; odd factors, so that one changed element always does.
    """
    bits_N = tensor.detach().contiguous().reshape(-1).view(_INTEGERS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, len(bits_N), _CHUNK):
        part_N = bits_N[start : start + _CHUNK].long()
        odd_N = torch.arange(start, start + len(part_N), device=tensor.device).mul_(2).add_(1)
        total += odd_N.mul_(part_N).sum()
    return int(total) % 2**64
