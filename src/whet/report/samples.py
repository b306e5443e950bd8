"""Which rows the report shows: the largest gains and setbacks, then a few others picked by the hash of their id."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from whet.report.run_folder import Pair
from whet.types import Comparison, RowChange
from whet.verdict.words import amount

OUTCOMES = {
    (False, True): "Only tuned is right",
    (True, False): "Only base is right",
    (True, True): "Both are right",
    (False, False): "Both are wrong",
}
"""(base is right, tuned is right) -> heading, in the order of the report."""
_QUOTA = {(False, True): 4, (True, False): 4, (True, True): 2, (False, False): 2}
_NUM_OTHERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row that is shown."""

    pair: Pair
    score: str = ""
    """what the primary metric gave base and tuned"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleGroup:
    """The rows shown of one kind."""

    heading: str
    num_rows: int
    """rows of this kind"""
    samples: tuple[Sample, ...]
    """the ones shown"""


def choose_samples(pairs: Sequence[Pair], comparison: Comparison | None = None) -> tuple[SampleGroup, ...]:
    """The rows to show: by what the comparison names, or without one by who is right."""
    if comparison is None or not comparison.metrics:
        return choose_by_outcome(pairs)
    unit = comparison.metrics[0].unit
    by_id = {pair.id: pair for pair in pairs}

    def changed(heading: str, num_rows: int, changes: Sequence[RowChange]) -> SampleGroup:
        shown = [
            Sample(pair=by_id[row.example_id], score=f"{amount(row.base, unit)} to {amount(row.tuned, unit)}")
            for row in changes
            if row.example_id in by_id
        ]
        return SampleGroup(heading=heading, num_rows=num_rows, samples=tuple(shown))

    named = {row.example_id for row in (*comparison.gains, *comparison.setbacks)}
    others = [pair for pair in _by_hash(pairs) if pair.id not in named][:_NUM_OTHERS]
    groups = (
        changed("Largest gains", comparison.wins, comparison.gains),
        changed("Largest losses", comparison.losses, comparison.setbacks),
        SampleGroup(
            heading="Others, picked by a hash of their id",
            num_rows=len(pairs) - len(named & by_id.keys()),
            samples=tuple(Sample(pair=pair) for pair in others),
        ),
    )
    return tuple(group for group in groups if group.samples)


def choose_by_outcome(pairs: Sequence[Pair], limit: int = 12) -> tuple[SampleGroup, ...]:
    """At most `limit` pairs: a quota for every outcome, places left over go to wins, losses, both right, both wrong.

    Within an outcome the order is that of SHA-256(id): the same on every machine, and nobody's choice.
    """
    ranked = _by_hash(pairs)
    by_outcome = {
        outcome: [pair for pair in ranked if (pair.base.is_correct, pair.tuned.is_correct) == outcome]
        for outcome in OUTCOMES
    }
    taken = {outcome: min(_QUOTA[outcome], len(found)) for outcome, found in by_outcome.items()}
    for outcome, found in by_outcome.items():
        taken[outcome] += min(limit - sum(taken.values()), len(found) - taken[outcome])
    return tuple(
        SampleGroup(
            heading=OUTCOMES[outcome],
            num_rows=len(found),
            samples=tuple(Sample(pair=pair) for pair in found[: taken[outcome]]),
        )
        for outcome, found in by_outcome.items()
        if found
    )


def _by_hash(pairs: Sequence[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: hashlib.sha256(pair.id.encode("utf-8", "surrogatepass")).digest())
