"""Comparisons as tables of plain text: one line per evaluation set, or one per metric of a set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from whet.verdict.words import amount, change, short_unit

if TYPE_CHECKING:
    from whet.types import Comparison, MetricComparison

_OF_SETS = ("dataset", "rows", "base", "tuned", "difference", "95 % interval", "p", "verdict")
_OF_METRICS = (
    "metric",
    "rows",
    "base",
    "tuned",
    "difference",
    "95 % interval",
    "p",
    "adjusted",
    "would show",
    "verdict",
)


def sets_table(comparisons: Sequence[Comparison]) -> str:
    """One line per set, by its primary metric; a guard or other set is marked."""
    return _table([_headings(_OF_SETS, comparisons[0]), *(_set_cells(comparison) for comparison in comparisons)])


def metrics_table(comparison: Comparison) -> str:
    """One line per metric, indented."""
    lines = _table(
        [_headings(_OF_METRICS, comparison), *(_metric_cells(metric) for metric in comparison.metrics)]
    ).split("\n")
    return "\n".join(f"  {line}" for line in lines)


def _headings(columns: Sequence[str], comparison: Comparison) -> list[str]:
    """The columns under the names of the two sides."""
    names = {"base": comparison.base_name, "tuned": comparison.tuned_name}
    return [names.get(column, column) for column in columns]


def _set_cells(c: Comparison) -> tuple[str, ...]:
    primary = c.metrics[0]
    name = c.dataset if c.role == "main" else f"{c.dataset} ({c.role})"
    return (name, *_numbers(primary), f"{_p(c.p_value)}", c.verdict)


def _metric_cells(metric: MetricComparison) -> tuple[str, ...]:
    return (
        metric.name,
        *_numbers(metric),
        _p(metric.p_value),
        "-" if metric.adjusted_p is None else _p(metric.adjusted_p),
        "-" if metric.detectable is None else change(metric.detectable, metric.unit).lstrip("+"),
        metric.verdict or "-",
    )


def _numbers(metric: MetricComparison) -> tuple[str, ...]:
    return (
        str(metric.num_rows),
        amount(metric.base_mean, metric.unit),
        amount(metric.tuned_mean, metric.unit),
        f"{change(metric.difference.estimate, metric.unit)} {short_unit(metric.unit)}".rstrip(),
        f"{change(metric.difference.low, metric.unit)} to {change(metric.difference.high, metric.unit)}",
    )


def _p(value: float) -> str:
    return f"{value:.2g}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
