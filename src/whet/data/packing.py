"""Samples -> PackedBatch: whole documents end to end, no padding. Labels are shifted here and only here.

documents   |a0 a1 a2 a3|b0 b1 b2|
positions    0  1  2  3  0  1  2
labels       a1 a2 a3 -  b1 b2 -      (- = -100: nothing to predict across a border, or not taught)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

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


def pack(samples: Sequence[TokenizedSample], device: torch.device | str = "cpu") -> PackedBatch:
    """Lay `samples` end to end. An empty sequence gives an empty batch (T = 0)."""
    empty = np.zeros(0, dtype=np.int64)
    ids = np.concatenate([empty, *(s.ids for s in samples)]).astype(np.int64)
    positions = np.concatenate([empty, *(np.arange(s.num_tokens) for s in samples)]).astype(np.int64)
    labels = np.concatenate([empty, *(shift_labels(s) for s in samples)]).astype(np.int64)
    return PackedBatch(
        ids_T=torch.from_numpy(ids).to(device),
        positions_T=torch.from_numpy(positions).to(device),
        labels_T=torch.from_numpy(labels).to(device),
        lengths=tuple(s.num_tokens for s in samples),
        sample_ids=tuple(s.id for s in samples),
        sample_keys=tuple(sample_key(s.id) for s in samples),
    )
