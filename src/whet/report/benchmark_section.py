"""Standard benchmarks for the report: what a tool such as lm-eval measured on base and tuned, with its own errors."""

from __future__ import annotations

from typing import Any

from whet.report.metrics_log import finite
from whet.verdict.words import amount, change, short_unit

_MAX_TASKS = 200


def benchmark_table(results: dict[str, Any]) -> dict[str, Any]:
    """`tool`, `notes` and `rows` of (task, metric, rows, base, tuned, difference, 95 % interval, p)."""
    tasks, notes = results.get("tasks"), results.get("notes")
    return {
        "tool": str(results.get("tool") or "an unnamed tool"),
        "notes": [str(note) for note in notes][:_MAX_TASKS] if isinstance(notes, list) else [],
        "rows": [_row(task) for task in tasks[:_MAX_TASKS] if isinstance(task, dict)]
        if isinstance(tasks, list)
        else [],
    }


def _row(task: dict[str, Any]) -> list[str]:
    unit = str(task.get("unit", ""))
    difference = task.get("difference")
    difference = difference if isinstance(difference, dict) else {}
    estimate, low, high = (finite(difference.get(name)) for name in ("estimate", "low", "high"))
    num_rows, p_value = finite(task.get("num_rows")), finite(task.get("p_value"))
    return [
        str(task.get("task", "")),
        str(task.get("metric", "")),
        "-" if num_rows is None else f"{num_rows:,.0f}",
        _measured(task.get("base"), unit),
        _measured(task.get("tuned"), unit),
        "-" if estimate is None else f"{change(estimate, unit)} {short_unit(unit)}".rstrip(),
        "-" if low is None or high is None else f"{change(low, unit)} to {change(high, unit)}",
        "-" if p_value is None else f"{p_value:.2g}",
    ]


def _measured(value: object, unit: str) -> str:
    """A value with its standard error."""
    found = value if isinstance(value, dict) else {}
    number, error = finite(found.get("value")), finite(found.get("stderr"))
    if number is None:
        return "-"
    return amount(number, unit) if error is None else f"{amount(number, unit)} +- {change(error, unit).lstrip('+')}"
