"""What samples begin with (chat template, system prompt): how long it is, and whether storing it once pays.

A prefix may be shared as far as nothing in it, and not the token after it, is taught: its last token predicts another
next token in every sample, and that prediction belongs to the samples.

    sample       |p0 p1 p2|a3 a4 a5|        taught: a5, so at most 4 tokens may be shared
    with others  |p0 p1 p2|a3 a4 a5|b3 b4|  positions 0 1 2 3 4 5 3 4
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from whet.types import TokenizedSample

SHORTEST = 8
"""tokens: fewer are not worth a seam"""
LEAST_SHARE = 0.05
"""of all tokens: from here on `auto` shares"""
_MOST_SAMPLES_LOOKED_AT = 4096


def num_sharable(sample: TokenizedSample) -> int:
    """Tokens of `sample` that others may share: those before the one that predicts the first taught token."""
    taught = np.flatnonzero(sample.taught[1:])
    return int(taught[0]) if len(taught) else max(0, sample.num_tokens - 1)


def common_prefix(samples: Sequence[TokenizedSample]) -> int:
    """Tokens that all of at least two samples begin with and may share; 0 below `SHORTEST`."""
    if len(samples) < 2:
        return 0
    first = samples[0]
    length = num_sharable(first)
    for sample in samples[1:]:
        length = min(length, num_sharable(sample))
        differing = np.flatnonzero(sample.ids[:length] != first.ids[:length])
        length = int(differing[0]) if len(differing) else length
        if length < SHORTEST:
            return 0
    return length


def estimate_common_prefix(samples: Sequence[TokenizedSample]) -> int:
    """`common_prefix` of a large set, from at most 4,096 samples spread evenly over it."""
    stride = -(-len(samples) // _MOST_SAMPLES_LOOKED_AT) or 1
    return common_prefix([samples[i] for i in range(0, len(samples), stride)])


def pays(setting: bool | Literal["auto"], num_shared: int, lengths: np.ndarray) -> bool:
    """Whether prefixes are shared: as the recipe says, or where `num_shared` is 5 % of the mean length or more."""
    if setting != "auto":
        return setting
    return num_shared * len(lengths) >= LEAST_SHARE * int(lengths.sum(dtype=np.int64)) > 0


def mask_keys(sample: TokenizedSample, sample_key: int) -> np.ndarray:
    """uint64 [num_tokens]: seeds of dropout masks that do not depend on who shares a prefix with whom.

    A token that may be shared is seeded by the ids up to it, so that it has one mask in all samples that begin with
    them, in whichever pass they are; the others by `sample_key`.
    """
    keys = np.full(sample.num_tokens, sample_key, dtype=np.uint64)
    digest = hashlib.sha256()
    for position, token in enumerate(sample.ids[: num_sharable(sample)].tolist()):
        digest.update(token.to_bytes(4, "little"))
        keys[position] = int.from_bytes(digest.digest()[:8], "big")
    return keys


def describe_sharing(num_shared: int, lengths: np.ndarray) -> str:
    """What sharing saves, in one sentence."""
    share = num_shared * len(lengths) / int(lengths.sum(dtype=np.int64))
    return (
        f"the {num_shared} tokens that all samples begin with are computed once per pass, "
        f"up to {share:.1%} fewer tokens"
    )
