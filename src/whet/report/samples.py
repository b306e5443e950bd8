"""Which rows the report shows: a few of every outcome, picked by the hash of their id, not by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from whet.report.run_folder import Pair

OUTCOMES = {
    (False, True): "Only tuned is right",
    (True, False): "Only base is right",
    (True, True): "Both are right",
    (False, False): "Both are wrong",
}
"""(base is right, tuned is right) -> heading, in the order of the report."""
_QUOTA = {(False, True): 4, (True, False): 4, (True, True): 2, (False, False): 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleGroup:
    """The rows shown of one outcome."""

    heading: str
    num_rows: int
    """rows with this outcome"""
    pairs: tuple[Pair, ...]
    """the ones shown"""


def choose_samples(pairs: Sequence[Pair], limit: int = 12) -> tuple[SampleGroup, ...]:
    """At most `limit` pairs: a quota for every outcome, places left over go to wins, losses, both right, both wrong.

    Within an outcome the order is that of SHA-256(id): the same on every machine, and nobody's choice.
    """
    ranked = sorted(pairs, key=lambda pair: hashlib.sha256(pair.id.encode("utf-8", "surrogatepass")).digest())
    by_outcome = {
        outcome: [pair for pair in ranked if (pair.base.is_correct, pair.tuned.is_correct) == outcome]
        for outcome in OUTCOMES
    }
    taken = {outcome: min(_QUOTA[outcome], len(found)) for outcome, found in by_outcome.items()}
    for outcome, found in by_outcome.items():
        taken[outcome] += min(limit - sum(taken.values()), len(found) - taken[outcome])
    return tuple(
        SampleGroup(heading=OUTCOMES[outcome], num_rows=len(found), pairs=tuple(found[: taken[outcome]]))
        for outcome, found in by_outcome.items()
        if found
    )
