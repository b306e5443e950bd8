"""What was foreseen beside what was measured, for the report: memory by part, and seconds of a step."""

from __future__ import annotations

from typing import Any

from whet.report.metrics_log import finite

PARTS = {
    "process": "process",
    "weights": "weights",
    "gradients": "gradients",
    "moments": "Adam's moments",
    "checkpoint": "checkpoint being written",
    "snapshot": "snapshot of the guard",
    "activations": "activations",
    "work": "working memory",
    "slack": "slack of the allocator",
    "gathered": "gathered weights",
    "reducing": "gradients on their way",
}
"""part of the prediction -> its name for people"""


def estimate_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Rows of (what, predicted, measured, predicted / measured) from summary.json; none where nothing was foreseen.

    Memory is that of one rank. Only the whole is measured, not its parts.
    """
    rows = []
    predicted, peak = (finite(summary.get(name)) for name in ("predicted_memory_bytes", "peak_memory_bytes"))
    if predicted is not None:
        parts = summary.get("predicted_memory_parts")
        found = {name: finite(parts.get(name)) for name in PARTS} if isinstance(parts, dict) else {}
        rows += [[PARTS[name], _size(size), "", ""] for name, size in found.items() if size]
        in_training = sum(size for size in found.values() if size)
        if found and predicted > in_training:
            rows.append(["reading the model took more", _size(predicted), "", ""])
        rows.append(["peak memory", _size(predicted), _size(peak), _ratio(predicted, peak)])
    planned, seconds = finite(summary.get("planned_seconds_per_step")), _seconds_per_step(summary)
    if planned is not None:
        rows.append(["a step", f"{planned:.3g} s", _seconds(seconds), _ratio(planned, seconds)])
    return rows


def _seconds_per_step(summary: dict[str, Any]) -> float | None:
    seconds, steps = finite(summary.get("seconds")), finite(summary.get("steps"))
    return seconds / steps if seconds is not None and steps else None


def _size(num_bytes: float | None) -> str:
    if num_bytes is None:
        return "-"
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3g} s"


def _ratio(predicted: float, measured: float | None) -> str:
    return f"{predicted / measured:.2f}" if measured else "-"
