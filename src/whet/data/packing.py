"""Samples -> PackedBatch: whole documents end to end, no padding. Labels are shifted here and only here.

documents   |a0 a1 a2 a3|b0 b1 b2|
positions    0  1  2  3  0  1  2
labels       a1 a2 a3 -  b1 b2 -      (- = -100: nothing to predict across a border, or not taught)

What all documents of a row begin with may be stored once, before them (data/shared_prefix.py).

Which documents go together is decided by the sampler (data/sampler.py, data/pack_plan.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from whet.data.shared_prefix import common_prefix, mask_keys
from whet.types import PackedBatch, TokenizedSample

IGNORED = -100


def sample_key(sample_id: str) -> int:
    """A 63-bit number for a sample id, equal on every machine and in every packing."""
    return int.from_bytes(hashlib.sha256(sample_id.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1


def shift_labels(sample: TokenizedSample) -> np.ndarray:
    """int64 [num_tokens]: at each position the next token where that token is taught, else -100."""
    labels = np.full(sample.num_tokens, IGNORED, dtype=np.int64)
    labels[:-1] = np.where(sample.taught[1:], sample.ids[1:], IGNORED)
    return labels


def pack(
    samples: Sequence[TokenizedSample], device: torch.device | str = "cpu", *, is_pinned: bool = False,
    share_prefix: bool = False,
) -> PackedBatch:  # fmt: skip
    """Lay `samples` end to end; with `share_prefix`, what all of them begin with once and before them.

    An empty sequence gives an empty batch (T = 0). `is_pinned`: stays in the host's memory, where `to_device` can
    copy it from without waiting.
    """
    prefix = common_prefix(samples) if share_prefix else 0
    keys = tuple(sample_key(s.id) for s in samples)
    ids = _join([s.ids for s in samples], prefix).astype(np.int64)
    positions = _join([np.arange(s.num_tokens) for s in samples], prefix).astype(np.int64)
    labels = _join([shift_labels(s) for s in samples], prefix).astype(np.int64)
    seeds = [mask_keys(s, key) for s, key in zip(samples, keys, strict=True)] if share_prefix else []
    offsets = np.cumsum([0, *(s.num_tokens for s in samples)], dtype=np.int32)
    values = (ids, positions, labels, np.flatnonzero(labels != IGNORED), offsets)
    tensors = [torch.from_numpy(each) for each in values]
    ids_T, positions_T, labels_T, taught_N, offsets_D = (t.pin_memory() if is_pinned else t.to(device) for t in tensors)
    return PackedBatch(
        ids_T=ids_T,
        positions_T=positions_T,
        labels_T=labels_T,
        taught_N=taught_N,
        offsets_D=offsets_D,
        lengths=tuple(s.num_tokens - prefix for s in samples),
        sample_ids=tuple(s.id for s in samples),
        sample_keys=keys,
        shared_prefix=prefix,
        mask_keys_T=_join(seeds, prefix) if seeds else None,
    )


def fill_turn(*, is_pinned: bool = False) -> PackedBatch:
    """A pass of one token that teaches nothing, for a rank without samples while others compute with its weights."""
    nothing = TokenizedSample(id="", ids=np.zeros(1, dtype=np.int32), taught=np.zeros(1, dtype=bool))
    return pack([nothing], is_pinned=is_pinned)


def _join(rows: Sequence[np.ndarray], prefix: int) -> np.ndarray:
    """The first `prefix` entries, which all rows have in common, then what comes after them in each row."""
    empty = np.zeros(0, dtype=np.int64)
    return np.concatenate([rows[0][:prefix], *(row[prefix:] for row in rows)]) if rows else empty


def to_device(batch: PackedBatch, device: torch.device) -> PackedBatch:
    """The batch where it is computed; a copy to a GPU starts here and what uses it waits for it."""
    if device.type == "cpu":
        return batch
    tensors = {f.name: t for f in fields(batch) if isinstance(t := getattr(batch, f.name), Tensor)}
    copies: dict[str, Any] = {name: t.to(device, non_blocking=True) for name, t in tensors.items()}
    return replace(batch, **copies)


def padding_share(lengths: np.ndarray, batch_size: int) -> float:
    """Share of a padded batch that would be padding, if `batch_size` samples at a time were padded to their longest."""
    if not len(lengths):
        return 0.0
    starts = np.arange(0, len(lengths), batch_size)
    longest = np.maximum.reduceat(lengths, starts).astype(np.int64)
    padded = int(longest @ np.diff(starts, append=len(lengths)))
    return 1 - int(lengths.sum(dtype=np.int64)) / padded if padded else 0.0
