"""(seed, epoch) -> one global order of samples -> the passes of a step, the same whatever the number of ranks.

An epoch is a row of units: samples, or packs of samples. A step takes the next `global_batch` of them and deals
their tokens evenly over accumulation x world size forward passes. Nothing is carried from step to step: the state is
the step alone, so a run that stops in the middle of a shuffled, mixed and packed epoch goes on exactly.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from whet.data.pack_plan import PackPlan, index_dtype, plan_packs
from whet.data.packing import padding_share
from whet.data.shared_prefix import describe_sharing, estimate_common_prefix
from whet.recipe.schema import Recipe
from whet.types import RunPlan, TokenizedSet


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> np.ndarray:
    """int32 [num_samples]: a permutation, another one in each epoch, the same on every machine."""
    return _shuffled(num_samples, [seed, epoch])


def _shuffled(number: int, seed: list[int]) -> np.ndarray:
    """int32 [number] (int64 from 2 billion on): what numpy's `permutation` says, in half of its memory."""
    row = np.arange(number, dtype=index_dtype(number))
    np.random.Generator(np.random.PCG64(seed)).shuffle(row)
    return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The samples of one optimizer step."""

    indices: np.ndarray
    """int64: all samples in the global order"""
    passes: tuple[np.ndarray, ...]
    """accumulation x world size arrays of samples, one per forward pass, about equally many tokens in each; rank r
    takes every world-size-th of them from r on. In a short step some may be empty, which still counts as a turn."""

    def of_rank(self, rank: int, world_size: int) -> tuple[np.ndarray, ...]:
        """This rank's forward passes: the same number on every rank."""
        return self.passes[rank::world_size]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Epoch:
    """The units of one epoch in order, in two or three arrays: millions of samples are no objects of Python."""

    number: int
    samples: np.ndarray
    """int32 [num_samples], in order; empty where units are packs"""
    packs: PackPlan | None
    pack_order: np.ndarray
    """int32 [num_packs]: which pack comes when"""

    def __len__(self) -> int:
        return len(self.samples) if self.packs is None else len(self.packs)

    def units(self, first: int, last: int) -> list[np.ndarray]:
        """The samples of each unit from `first` up to `last`, which may lie behind the end."""
        if self.packs is None:
            return list(self.samples[first:last, None])
        return [self.packs[number] for number in self.pack_order[first:last].tolist()]


class Order:
    """Which samples every step of a run takes; a pure function of what it is built from."""

    def __init__(
        self, lengths: np.ndarray, *, seed: int, source_sizes: Sequence[int] = (),
        weights: Sequence[float] | None = None, unit: Literal["samples", "packs"] = "samples", capacity: int = 0,
        shared_prefix: int = 0,
    ) -> None:  # fmt: skip
        """`lengths`: int [num_samples], in tokens; `source_sizes` and `weights`: per source; `capacity`: of a pack;
        `shared_prefix`: tokens that all samples begin with and a pass may compute once."""
        self.lengths = lengths
        self.seed = seed
        self.unit = unit
        self.capacity = capacity
        self.shared_prefix = shared_prefix
        self._sizes = tuple(source_sizes) or (len(lengths),)
        self._counts = None if weights is None else mix_counts(self._sizes, weights)
        self._kept = self._make_epoch(0)
        self.num_units = len(self._kept)

    def step(self, plan: RunPlan, step: int) -> Step:
        """The samples of 0-based optimizer step `step`; the last step of an epoch may be short."""
        epoch, step_in_epoch = divmod(step, plan.steps_per_epoch)
        first = step_in_epoch * plan.global_batch
        units = self._epoch(epoch).units(first, first + plan.global_batch)
        tokens = [int(self.lengths[unit].sum()) for unit in units]
        passes = balance(tokens, plan.accumulation * plan.world_size)
        return Step(indices=_join(units), passes=tuple(_join([units[i] for i in each]) for each in passes))

    def _epoch(self, number: int) -> _Epoch:
        """Kept until another one is asked for."""
        if self._kept.number != number:
            self._kept = self._make_epoch(number)
        return self._kept

    def _make_epoch(self, number: int) -> _Epoch:
        samples = self._samples(number)
        nothing = np.zeros(0, dtype=samples.dtype)
        if self.unit == "samples":
            return _Epoch(number=number, samples=samples, packs=None, pack_order=nothing)
        packs = plan_packs(self.lengths[samples], self.capacity)
        in_epoch = PackPlan(samples=samples[packs.samples], starts=packs.starts)
        pack_order = _shuffled(len(packs), [self.seed, number, 1])
        return _Epoch(number=number, samples=nothing, packs=in_epoch, pack_order=pack_order)

    def _samples(self, epoch: int) -> np.ndarray:
        if self._counts is None:
            return epoch_order(len(self.lengths), seed=self.seed, epoch=epoch)
        starts = np.cumsum((0, *self._sizes[:-1])).astype(index_dtype(len(self.lengths)))
        parts = [
            start + _stretch_of_passes(size, epoch * count, (epoch + 1) * count, seed=[self.seed, number])
            for number, (start, size, count) in enumerate(zip(starts, self._sizes, self._counts, strict=True))
        ]
        joined = np.concatenate(parts)
        return joined[epoch_order(len(joined), seed=self.seed, epoch=epoch)]


def order_of(recipe: Recipe, tokens: TokenizedSet) -> Order:
    """The order that the recipe means for its training samples."""
    weights = [source.weight for source in recipe.data.train if source.weight is not None]
    return Order(
        tokens.lengths,
        seed=recipe.seed,
        source_sizes=tokens.source_sizes,
        weights=weights or None,
        unit=recipe.batch.unit,
        capacity=recipe.data.max_length,
        shared_prefix=estimate_common_prefix(tokens.samples) if recipe.batch.share_prefix else 0,
    )


def describe_packing(order: Order, micro_size: int, *, shares_prefix: bool = False) -> str:
    """What packing saves, in one sentence, and in another what sharing a prefix does."""
    sharing = f"; {describe_sharing(order.shared_prefix, order.lengths)}" if shares_prefix else ""
    return _describe_layout(order, micro_size) + sharing


def _describe_layout(order: Order, micro_size: int) -> str:
    if order.unit == "packs":
        share = int(order.lengths.sum(dtype=np.int64)) / (order.num_units * order.capacity)
        packs = f"{order.num_units:,} packs of at most {order.capacity:,} tokens"
        return f"packing: {len(order.lengths):,} samples in {packs}, {share:.2%} full; 0 % padding"
    packed = "packing: the samples of a step end to end, 0 % padding"
    if micro_size == 1:
        return packed
    saved = padding_share(order.lengths, micro_size)
    return f"{packed}; {micro_size} samples at a time padded to the longest would be {saved:.1%} padding"


def mix_counts(sizes: Sequence[int], weights: Sequence[float]) -> tuple[int, ...]:
    """Samples per epoch of each source: sum(sizes) shared out by weight, the largest remainders rounded up."""
    shares = np.asarray(weights, dtype=np.float64) / sum(weights) * sum(sizes)
    counts = np.floor(shares).astype(np.int64)
    largest = np.argsort(counts - shares, kind="stable")
    counts[largest[: sum(sizes) - int(counts.sum())]] += 1
    return tuple(int(count) for count in counts)


def _stretch_of_passes(size: int, start: int, stop: int, *, seed: list[int]) -> np.ndarray:
    """Positions start..stop of an endless row of shuffled passes over `size` samples: each pass uses all of them."""
    if size == 0 or start == stop:
        return np.zeros(0, dtype=index_dtype(size))
    first, last = start // size, -(-stop // size)
    row = np.concatenate([_shuffled(size, [*seed, number, 2]) for number in range(first, last)])
    return row[start - first * size : stop - first * size]


def balance(tokens: Sequence[int], num_passes: int) -> list[list[int]]:
    """`num_passes` lists of units, each unit in one list, with about equally many tokens in each.

    Longest first into the emptiest pass (Graham, 1969: the fullest holds at most 4/3 of the best possible); inside a
    pass the units keep their order.
    """
    loads = [(0, number) for number in range(num_passes)]
    passes: list[list[int]] = [[] for _ in range(num_passes)]
    for unit in sorted(range(len(tokens)), key=lambda i: (-tokens[i], i)):
        load, number = heapq.heappop(loads)
        passes[number].append(unit)
        heapq.heappush(loads, (load + tokens[unit], number))
    return [sorted(each) for each in passes]


def _join(units: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *units])


def batch_hash(sample_ids: Sequence[str]) -> str:
    """16 hex digits over the sample ids of a step in order, to compare runs line by line."""
    return hashlib.sha256("\n".join(sample_ids).encode("utf-8", "surrogatepass")).hexdigest()[:16]
