"""Where a difference comes from: by category of rows, and row by row at both ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.evaluation.statistics import PairedResult, holm, paired_result


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One category's own comparison."""

    name: str
    result: PairedResult
    adjusted_p: float
    """Holm over the categories: many small groups are many chances to look good"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChange:
    """One row under both models."""

    example_id: str
    base: float
    tuned: float

    @property
    def difference(self) -> float:
        return self.tuned - self.base


def compare_by_category(
    categories: Sequence[str], base: Sequence[float | None], tuned: Sequence[float | None], *, seed: int
) -> tuple[Category, ...]:
    """The rows of each category compared by themselves, the most rows first, then by name.

    Categories without a row that has both scores are absent. ValueError: unequal lengths.
    """
    rows_of: dict[str, list[tuple[float | None, float | None]]] = {}
    for name, base_score, tuned_score in zip(categories, base, tuned, strict=True):
        rows_of.setdefault(name, []).append((base_score, tuned_score))
    results = {
        name: result
        for name, rows in rows_of.items()
        if (result := paired_result([b for b, _ in rows], [t for _, t in rows], seed=seed)) is not None
    }
    names = sorted(results, key=lambda name: (-results[name].num_rows, name))
    adjusted = holm([results[name].p_value for name in names])
    return tuple(
        Category(name=name, result=results[name], adjusted_p=p) for name, p in zip(names, adjusted, strict=True)
    )


def largest_changes(
    example_ids: Sequence[str],
    base: Sequence[float | None],
    tuned: Sequence[float | None],
    *,
    higher_is_better: bool = True,
    num_rows: int = 10,
) -> tuple[tuple[RowChange, ...], tuple[RowChange, ...]]:
    """The `num_rows` largest wins and the largest losses of tuned, each with the largest first; ties in row order.

    Rows that did not change are neither; rows without both scores are left out. ValueError: unequal lengths.
    """
    direction = 1 if higher_is_better else -1
    changes = [
        RowChange(example_id=example_id, base=b, tuned=t)
        for example_id, b, t in zip(example_ids, base, tuned, strict=True)
        if b is not None and t is not None
    ]
    ordered = sorted(changes, key=lambda change: -direction * change.difference)
    wins = [change for change in ordered if direction * change.difference > 0]
    # sorted anew, because reversing the order would turn ties round
    losses = sorted(
        (change for change in changes if direction * change.difference < 0),
        key=lambda change: direction * change.difference,
    )
    return tuple(wins[:num_rows]), tuple(losses[:num_rows])
