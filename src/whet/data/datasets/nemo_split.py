"""NeMo's way to cut one set into two: the arithmetic of the `datasets` library's `train_test_split`, with NeMo's seed.

The same rows land on the same side as there; here they keep the order of the file, so that they can be read one
by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SEED = 1234
"""NeMo's default for its data modules"""


class SplitRule(NamedTuple):
    """How the splits of a dataset come about."""

    hub_splits: dict[str, str]
    """split of the recipe -> split on the hub that it is cut from"""
    cut: Callable[[int], dict[str, np.ndarray]]
    """number of rows of the set that is cut -> row numbers of each part, ascending"""
    parts: tuple[str, ...]
    """the splits that are a part; any other is whole"""
    sentence: str
    """for people"""


def train_test_split(num_rows: int, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers that stay and row numbers held out (share `held_out`, rounded up), in the library's order."""
    num_held_out = math.ceil(held_out * num_rows)
    order = np.random.default_rng(SEED).permutation(num_rows)
    return order[num_held_out:], order[:num_held_out]
