"""Lengths -> which samples stand together in packs of a fixed length: two arrays, whatever the number of samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_LARGEST_16_BIT = np.iinfo(np.uint16).max
_LARGEST_32_BIT = np.iinfo(np.int32).max


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPlan:
    """Samples pack by pack. Invariant: each sample stands in exactly one pack; inside a pack they rise."""

    samples: np.ndarray
    """int32 [num_samples] (int64 from 2 billion on), one pack after the other"""
    starts: np.ndarray
    """int64 [num_packs + 1]: where each pack begins in `samples`, and their end"""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> np.ndarray:
        return self.samples[self.starts[number] : self.starts[number + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))


def plan_packs(lengths: np.ndarray, capacity: int) -> PackPlan:
    """Samples -> packs of at most `capacity` tokens, best fit decreasing.

    Longest first, each into the pack with the least room that still takes it (Johnson, 1973: at most 11/9 of the
    fewest possible packs). Deterministic: samples of equal length are taken in the order given. ValueError where a
    sample is longer than `capacity`.
    """
    if len(lengths) and int(lengths.max()) > capacity:
        raise ValueError(f"a sample of {int(lengths.max())} tokens does not fit a pack of {capacity}")
    longest_first = _longest_first(lengths, capacity)
    counts = np.bincount(lengths) if len(lengths) else np.zeros(0, dtype=np.int64)
    pack_of = np.empty(len(lengths), dtype=np.int32)
    open_packs = _OpenPacks(capacity)
    first = 0
    for length in reversed(np.flatnonzero(counts).tolist()):
        last = first + int(counts[length])
        while first < last:
            taken = open_packs.take(length, last - first)
            pack_of[longest_first[first : first + len(taken)]] = taken
            first += len(taken)
    del longest_first  # 8 bytes for each sample, which sorting them by pack needs again
    starts = np.concatenate([[0], np.cumsum(np.bincount(pack_of, minlength=open_packs.num_packs))])
    samples = np.argsort(pack_of, kind="stable").astype(index_dtype(len(lengths)))
    return PackPlan(samples=samples, starts=starts.astype(np.int64))


def index_dtype(num_samples: int) -> type[np.signedinteger]:
    """The narrower of two that numbers so many samples."""
    return np.int32 if num_samples <= _LARGEST_32_BIT else np.int64


def _longest_first(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """int64 [num_samples]: the samples by falling length, equal ones in the order given."""
    # numpy sorts 16 bits by counting, several times as fast
    dtype = np.uint16 if capacity <= _LARGEST_16_BIT else np.int64
    return np.argsort((capacity - lengths.astype(np.int64)).astype(dtype), kind="stable")


class _OpenPacks:
    """The packs begun so far, by the room they have left; those of equal room form a stack."""

    def __init__(self, capacity: int) -> None:
        self.num_packs = 0
        self._capacity = capacity
        self._stacks: dict[int, list[np.ndarray]] = {}
        self._rooms = 0
        """bit r is set where a pack with room for r tokens is waiting"""

    def take(self, length: int, num_samples: int) -> np.ndarray:
        """int32 [1 to num_samples]: the packs of the next samples, all `length` tokens long.

        A pack with the least room that fits stays the best one until nothing fits any more, so it takes as many as it
        can in a row.
        """
        fitting = self._rooms >> length
        room = length + (fitting & -fitting).bit_length() - 1 if fitting else self._capacity
        each = room // length if length else num_samples
        wanted = -(-num_samples // each)
        packs = self._pop(room, wanted) if fitting else self._begin(wanted)
        taken = np.repeat(packs, each)[:num_samples]
        num_in_last = len(taken) - (len(packs) - 1) * each
        self._push(room - each * length, packs[:-1])
        self._push(room - num_in_last * length, packs[-1:])
        return taken

    def _begin(self, number: int) -> np.ndarray:
        self.num_packs += number
        return np.arange(self.num_packs - number, self.num_packs, dtype=np.int32)

    def _pop(self, room: int, number: int) -> np.ndarray:
        """At most `number` packs, the one that was put there last first."""
        stack = np.concatenate(self._stacks.pop(room))
        rest = max(0, len(stack) - number)
        if rest:
            self._stacks[room] = [stack[:rest]]
        else:
            self._rooms &= ~(1 << room)
        return stack[rest:][::-1]

    def _push(self, room: int, packs: np.ndarray) -> None:
        if len(packs):
            self._stacks.setdefault(room, []).append(packs)
            self._rooms |= 1 << room
