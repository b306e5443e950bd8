"""Dropout whose mask is a function of (seed, step, sample, position, module, channel) and of nothing else.

No random generator is advanced, so packing, micro-batch splits, the number of ranks, recomputation and resume all
see the same masks. Where prefixes may be shared, the ids up to a token that may be shared stand for its sample: it has
one mask in all samples that begin with them. The mask of token t and channel c in module m is

    keep = mix32(row(seed, step, sample, position, m) xor column(c)) >= p * 2^32

with `mix32` the finaliser of MurmurHash3 (full avalanche on 32 bits) and `row` the splitmix64 mixer
(Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014) over the row's coordinates. As in PEFT,
each projection has a mask of its own and kept values are scaled by 1 / (1 - p).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from whet.types import PackedBatch

# The mixing makes several passes over its rows; this many stay in a core's cache in between.
_ROWS_PER_PASS = 128
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a number -> whole numbers of as many"""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _splitmix(x: np.ndarray) -> np.ndarray:
    """One round of splitmix64 on uint64 (wraps by design)."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _int32(x: np.ndarray) -> Tensor:
    return torch.from_numpy((x >> np.uint64(32)).astype(np.uint32).view(np.int32).copy())


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits).bitwise_and_((1 << (8 * x.element_size() - bits)) - 1)


def _splitmix_torch(x: Tensor) -> Tensor:
    """`_splitmix` on int64 bits."""
    x = x + (int(_GOLDEN) - (1 << 64))
    for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= _logical_shift(x, bits)
        x *= factor - (1 << 64)
    x ^= _logical_shift(x, 31)
    return x


@lru_cache(maxsize=64)
def _columns(first_channel: int, num_channels: int, device: torch.device) -> Tensor:
    """int32 [C]: one hash per channel."""
    channels = np.arange(first_channel, first_channel + num_channels, dtype=np.uint64)
    return _int32(_splitmix(channels)).to(device)


def _mix32_(x: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser in place on int32 bits."""
    x ^= _logical_shift(x, 16)
    x *= 0x85EBCA6B - (1 << 32)
    x ^= _logical_shift(x, 13)
    x *= 0xC2B2AE35 - (1 << 32)
    x ^= _logical_shift(x, 16)
    return x


def _mix32_numpy(x: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """The same in place on uint32, `spare` being memory of x's shape: on the CPU numpy does it in half of the time."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= np.right_shift(x, np.uint32(shift), out=spare)
        x *= np.uint32(factor)
    x ^= np.right_shift(x, np.uint32(16), out=spare)
    return x


@dataclass(frozen=True, slots=True)
class Mask:
    """What one module keeps of the rows that were in the model when it was asked, also when others have come."""

    rows_T1: Tensor
    columns_1C: Tensor
    threshold: int
    """mixed bits, as a signed number, from which a value is kept"""

    def keep(self) -> Tensor:
        """bool [T, C], True = kept."""
        shape = len(self.rows_T1), self.columns_1C.shape[1]
        keep_TC = torch.empty(shape, dtype=torch.bool, device=self.rows_T1.device)
        if keep_TC.device.type == "cpu":
            self._write_numpy(keep_TC.numpy())
        else:
            torch.ge(_mix32_(self.rows_T1 ^ self.columns_1C), self.threshold, out=keep_TC)
        return keep_TC

    def _write_numpy(self, keep_TC: np.ndarray) -> None:
        rows_T1, columns_1C = (t.numpy().view(np.uint32) for t in (self.rows_T1, self.columns_1C))
        mixed, spare = np.empty((2, _ROWS_PER_PASS, columns_1C.shape[1]), dtype=np.uint32)
        for start in range(0, len(rows_T1), _ROWS_PER_PASS):
            rows = slice(start, start + _ROWS_PER_PASS)
            count = len(keep_TC[rows])
            np.bitwise_xor(rows_T1[rows], columns_1C, out=mixed[:count])
            _mix32_numpy(mixed[:count], spare[:count])
            np.greater_equal(mixed[:count].view(np.int32), self.threshold, out=keep_TC[rows])

    def zero_dropped(self, x_TC: Tensor, out: Tensor | None = None) -> Tensor:
        """[T, C]: x where it is kept, 0 elsewhere; `out` may be x itself.

        The bits are multiplied as whole numbers: torch's product of a boolean and a bfloat16 takes ten times as long.
        """
        bits = _BITS[x_TC.element_size()]
        out = torch.empty_like(x_TC) if out is None else out
        torch.mul(x_TC.view(bits), self.keep().view(torch.uint8).to(bits), out=out.view(bits))
        return out


class _Present(threading.local):
    """Rows that are in the model now, for each thread that has a pass of its own."""

    rows_T: np.ndarray | None = None
    hashes_MT: Tensor | None = None


class DropoutState:
    """Which rows are going through the model now; shared by all `StatelessDropout` modules of one model."""

    def __init__(self, seed: int) -> None:
        self._seed = np.uint64(seed)
        self._place: dict[np.uint64, int] = {}
        self._keys_M1: Tensor | None = None
        self._now = _Present()

    def know(self, module_key: np.uint64) -> None:
        """A module that will ask for rows."""
        self._place.setdefault(module_key, len(self._place))

    @contextmanager
    def micro_batch(self, step: int, batch: PackedBatch) -> Iterator[None]:
        """Masks inside this block belong to optimizer step `step` and the documents of `batch`."""
        keys, prefix = batch.mask_keys_T, batch.shared_prefix
        if keys is None:
            keys = np.repeat(np.array(batch.sample_keys, dtype=np.uint64), batch.lengths)
        branches = (np.arange(prefix, prefix + n, dtype=np.uint64) for n in batch.lengths)
        positions = np.concatenate([np.arange(prefix, dtype=np.uint64), *branches])
        # 1-element arrays: numpy warns about wrap-around of scalars, not of arrays
        rows = _splitmix(np.full(1, self._seed)) ^ np.full(1, np.uint64(step))
        rows = _splitmix(_splitmix(rows) ^ keys)
        self._now.rows_T = _splitmix(rows ^ positions)
        try:
            yield
        finally:
            self._now.rows_T = self._now.hashes_MT = None

    def rows(self, module_key: np.uint64) -> Tensor:
        """int32 [T]: one hash per token for one module, in the host's memory."""
        return _int32(_splitmix(self._present() ^ module_key))

    def rows_on(self, module_key: np.uint64, device: torch.device) -> Tensor:
        """The same on a GPU: one copy that nothing waits for, and the hashes of all modules made there at once."""
        if self._now.hashes_MT is None:
            in_memory = torch.from_numpy(self._present().view(np.int64))
            rows_T = (in_memory.pin_memory() if device.type == "cuda" else in_memory).to(device, non_blocking=True)
            if self._keys_M1 is None or len(self._keys_M1) != len(self._place):
                keys_M = np.array(list(self._place), dtype=np.uint64).view(np.int64)
                self._keys_M1 = torch.from_numpy(keys_M).to(device)[:, None]
            self._now.hashes_MT = (_splitmix_torch(rows_T ^ self._keys_M1) >> 32).to(torch.int32)
        return self._now.hashes_MT[self._place[module_key]]

    def _present(self) -> np.ndarray:
        if self._now.rows_T is None:
            raise RuntimeError("dropout is active outside DropoutState.micro_batch")
        return self._now.rows_T


class StatelessDropout(nn.Module):
    """Takes the place of one projection's `nn.Dropout`; identity in evaluation mode."""

    def __init__(self, p: float, *, module_name: str, state: DropoutState) -> None:
        super().__init__()
        self.p = p
        self.first_channel = 0
        """of the channels that this rank holds, where ranks share a layer: masks are those of the whole row"""
        self._state = state
        self._module_key = np.frombuffer(hashlib.sha256(module_name.encode()).digest()[:8], dtype=">u8").astype(
            np.uint64
        )[0]
        state.know(self._module_key)

    def mask(self, num_channels: int, device: torch.device) -> Tensor:
        """bool [T, num_channels] for the rows now in the model, True = kept."""
        return self.present_mask(num_channels, device).keep()

    def present_mask(self, num_channels: int, device: torch.device) -> Mask:
        """The mask of the rows now in the model, made anew whenever it is used."""
        key, state = self._module_key, self._state
        rows_T = state.rows(key) if device.type == "cpu" else state.rows_on(key, device)
        return Mask(
            rows_T1=rows_T[:, None],
            columns_1C=_columns(self.first_channel, num_channels, device)[None, :],
            threshold=int(self.p * 2**32) - 2**31,
        )

    def forward(self, x_1TC: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x_1TC
        return x_1TC * self.mask(x_1TC.shape[-1], x_1TC.device) * (1.0 / (1.0 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"
