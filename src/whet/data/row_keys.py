"""64-bit keys of what a row says, so that repeated and shared rows are found without keeping any text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from whet.data.rows import normalise
from whet.types import Example


def content_key(example: Example) -> int:
    """What the row says, word for word: the hash that its id begins with."""
    return int(example.id.partition("-")[0], 16)


def question_key(example: Example) -> int:
    """What the users ask (of a bare text: what it says); white space, case and Unicode forms do not count."""
    asked = [message.content for message in example.messages if message.role == "user"]
    return text_key(normalise("\n".join(asked or [message.content for message in example.messages])))


def parameters_key(example: Example) -> int:
    """What the row was made from; 0 where that is not known."""
    return text_key(example.parameters) if example.parameters else 0


def text_key(text: str) -> int:
    """The first 64 bits of SHA-256, never 0."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") or 1


def occurrences(keys: np.ndarray) -> np.ndarray:
    """int64 like `keys`: how many equal keys stand before each one (0 for a first occurrence)."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    position = np.arange(len(keys))
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    counted = np.empty(len(keys), dtype=np.int64)
    counted[order] = position - np.maximum.accumulate(np.where(is_first, position, 0))
    return counted


def find_equal(keys: Sequence[int], among: np.ndarray) -> dict[int, int]:
    """Position in `keys` -> position of the first equal one in `among`; keys that are 0 equal nothing.

    `among`, the training side, is much the longer one, so it is looked up in the sorted `keys`, not the reverse.
    """
    wanted, which = np.unique(np.asarray(keys, dtype=np.uint64), return_inverse=True)
    if len(wanted) == 0:
        return {}
    places = np.minimum(np.searchsorted(wanted, among), len(wanted) - 1)
    hits = np.flatnonzero((wanted[places] == among) & (among != 0))
    # return_index gives the first of equal ones
    keys_hit, first = np.unique(places[hits], return_index=True)
    position_of = dict(zip(keys_hit.tolist(), hits[first].tolist(), strict=True))
    return {position: position_of[key] for position, key in enumerate(which.tolist()) if key in position_of}
