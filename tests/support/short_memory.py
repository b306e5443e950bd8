"""Memory that runs out on purpose, in one `Training`: at planned points of planned passes, or in every pass that is too
large. Put in from outside; the product has no such switch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from whet.train.loop import Training
from whet.types import PackedBatch

Point = Literal["before", "forward", "head", "backward", "recomputed"]
POINTS: tuple[Point, ...] = ("before", "forward", "head", "backward")
ERRORS = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 80 GiB"),
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "numpy": lambda: MemoryError("Unable to allocate 8.00 GiB for an array with shape (1073741824,)"),
}
NOT_OF_MEMORY = "not of memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The pass that holds one sample of a step fails, as often as this is planned, unless it holds no other."""

    step: int
    """0-based"""
    place: int
    """of the sample in the step's global order (taken modulo its samples); whoever holds it runs out"""
    point: Point = "backward"
    error: str = "cpu"


@dataclass(frozen=True, slots=True)
class Finished:
    """A pass that came to its end."""

    step: int
    sample_ids: tuple[str, ...]
    mask_rows: frozenset[tuple[str, int, int]]
    """(sample id, place in it, hash that its dropout masks are made of) of every token of its own"""


class _Now(threading.local):
    point: Point | None = None
    error: str = ""
    num_calls: int = 0


class ShortMemory:
    """Counts what it does: `raised` and `finished`, in the order of the passes."""

    def __init__(
        self, training: Training, planned: Sequence[Planned] = (), *, most_samples: int | None = None,
        from_step: int = 0, point: Point = "backward", error: str = "cpu", in_lanes: bool = False,
    ) -> None:  # fmt: skip
        """With `most_samples`, every pass of more samples fails from 0-based `from_step` on; with `in_lanes`, every one
        that is not alone in memory."""
        self.raised: list[tuple[int, int]] = []
        """(0-based step, samples of the pass)"""
        self.finished: list[Finished] = []
        self._training, self._planned = training, list(planned)
        self._most, self._from, self._point, self._error = most_samples, from_step, point, error
        self._in_lanes = in_lanes
        self._now, self._lock = _Now(), threading.Lock()
        self._micro_batch = training.dropout.micro_batch
        training.dropout.micro_batch = self._watched  # type: ignore[method-assign]
        self._is_new_attempt = False
        self._zero_grad = training.optimizer.zero_grad
        training.optimizer.zero_grad = self._begin_attempt  # type: ignore[method-assign]
        self._hidden = training.loss_model.hidden
        training.loss_model.hidden = self._hidden_then_head  # type: ignore[method-assign]
        layers: Any = training.loss_model.backbone.layers
        layers[1].self_attn.register_forward_pre_hook(lambda *_: self._in_layer())
        # the last one to get its gradient but for the input embedding
        first = next(p for p in layers[0].parameters() if p.requires_grad)
        first.register_hook(lambda _grad: self._reach("backward"))

    def of_step(self, step: int) -> list[Finished]:
        """The passes of the attempt at 0-based `step` that counted."""
        return [each for each in self.finished if each.step == step]

    def _begin_attempt(self, set_to_none: bool = True) -> None:
        self._zero_grad(set_to_none=set_to_none)
        self._is_new_attempt = True

    @contextmanager
    def _watched(self, step: int, batch: PackedBatch) -> Iterator[None]:
        with self._micro_batch(step, batch):
            self._now.point, self._now.error = self._due(step, batch)
            self._now.num_calls = 0
            with self._lock:
                if self._is_new_attempt:
                    self.finished = [each for each in self.finished if each.step != step]
                    self._is_new_attempt = False
                if self._now.point is not None:
                    self.raised.append((step, len(batch.sample_ids)))
            rows = _mask_rows(self._training, batch)
            self._reach("before")
            yield
            assert self._now.point is None, f"the pass never came to {self._now.point}"
            with self._lock:
                self.finished.append(Finished(step, batch.sample_ids, rows))

    def _due(self, step: int, batch: PackedBatch) -> tuple[Point | None, str]:
        is_large = self._most is not None and step >= self._from and len(batch.sample_ids) > self._most
        if is_large or (self._in_lanes and threading.current_thread() is not threading.main_thread()):
            return self._point, self._error
        run = self._training
        indices = run.order.step(run.plan, step).indices
        with self._lock:
            for planned in self._planned:
                sample = run.samples[indices[planned.place % len(indices)]]
                if planned.step == step and sample.id in batch.sample_ids and len(batch.sample_ids) > 1:
                    self._planned.remove(planned)
                    return planned.point, planned.error
        return None, ""

    def _hidden_then_head(self, batch: PackedBatch) -> Tensor:
        hidden_TE = self._hidden(batch)
        self._reach("head")
        return hidden_TE

    def _in_layer(self) -> None:
        self._now.num_calls += 1
        self._reach("forward" if self._now.num_calls == 1 else "recomputed")

    def _reach(self, point: Point) -> None:
        if self._now.point == point:
            self._now.point = None
            if self._now.error == NOT_OF_MEMORY:
                raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)")
            raise ERRORS[self._now.error]()


def _mask_rows(training: Training, batch: PackedBatch) -> frozenset[tuple[str, int, int]]:
    hashes_T = training.dropout._present().tolist()
    found, start = [], batch.shared_prefix
    for sample_id, length in zip(batch.sample_ids, batch.lengths, strict=True):
        # places count from the sample's end: how much of its beginning is shared depends on who is beside it
        found += [(sample_id, length - place, hashes_T[start + place]) for place in range(length)]
        start += length
    return frozenset(found)
