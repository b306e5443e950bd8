"""Where a difference comes from: by category of rows, and row by row at both ends."""

from __future__ import annotations

from collections.abc import Sequence

from whet.evaluation.contests import Contest, decide_together
from whet.evaluation.seeds import Scores
from whet.types import MetricComparison, RowChange


def compare_by_category(
    categories: Sequence[str], base: Scores, tuned: Scores, *, like: MetricComparison, seed: int
) -> tuple[MetricComparison, ...]:
    """The rows of each category compared by themselves under the metric `like`, the most rows first, then by name.

    p-values are adjusted over the categories: many small groups are many chances to look good. Categories without a row
    that has all scores are absent. ValueError: unequal lengths.
    """
    if any(len(run) != len(categories) for run in (*base, *tuned)):
        raise ValueError(
            f"{len(categories)} categories for runs of {sorted({len(run) for run in (*base, *tuned)})} rows"
        )
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(categories):
        rows_of.setdefault(name, []).append(row)
    contests = [
        Contest(
            name=name,
            unit=like.unit,
            higher_is_better=like.higher_is_better,
            base=take(base, rows),
            tuned=take(tuned, rows),
        )
        for name, rows in rows_of.items()
    ]
    return tuple(sorted(decide_together(contests, seed=seed), key=lambda found: (-found.num_rows, found.name)))


def take(scores: Scores, rows: Sequence[int]) -> Scores:
    """The scores of some rows."""
    return [[run[row] for row in rows] for run in scores]


def largest_changes(
    example_ids: Sequence[str],
    base: Sequence[float | None],
    tuned: Sequence[float | None],
    *,
    higher_is_better: bool = True,
    num_rows: int = 10,
) -> tuple[tuple[RowChange, ...], tuple[RowChange, ...]]:
    """The `num_rows` largest gains and the largest setbacks of tuned, each with the largest first; ties in row order.

    Rows that did not change are neither; rows without both scores are left out. ValueError: unequal lengths.
    """
    direction = 1 if higher_is_better else -1
    changes = [
        RowChange(example_id=example_id, base=b, tuned=t)
        for example_id, b, t in zip(example_ids, base, tuned, strict=True)
        if b is not None and t is not None
    ]
    ordered = sorted(changes, key=lambda change: -direction * change.difference)
    gains = [change for change in ordered if direction * change.difference > 0]
    # sorted anew, because reversing the order would turn ties round
    setbacks = sorted(
        (change for change in changes if direction * change.difference < 0),
        key=lambda change: direction * change.difference,
    )
    return tuple(gains[:num_rows]), tuple(setbacks[:num_rows])
