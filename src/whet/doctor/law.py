"""One law of training: what was compared, by how much it differs, and what it means when it is broken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """One law and how the recipe keeps it."""

    name: str
    compared: str
    """the two ways, in words"""
    difference: float | None
    """the largest; None: the recipe has nothing to compare"""
    bound: float
    unit: str = "relative"
    where: str = ""
    """which of several comparisons differs most"""
    broken: str = ""
    """what it means for a run when the law is broken"""

    @property
    def is_kept(self) -> bool:
        """A difference that is not a number breaks the law."""
        return self.difference is None or self.difference <= self.bound


def worst(values: Iterable[float]) -> float | None:
    """The largest; NaN where there is one, which `max` may lose; None of nothing."""
    found = list(values)
    return float(np.max(found)) if found else None


def most_in(found: Mapping[str, float]) -> str:
    """Which of several comparisons differs most, or is not a number."""
    return max(found, key=lambda name: (np.isnan(found[name]), found[name])) if found else ""
