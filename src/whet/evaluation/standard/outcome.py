"""What a benchmark tool measured of base and tuned, joined row by row, and the file that says so.

The value and standard error of each model are the tool's own. The difference and its p-value are ours, over the rows
that both answered: where the tool's value is the mean of one number per row, and both were asked the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet import atomic
from whet.evaluation.statistics import paired_result

RESULTS = "results.json"
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScore:
    """One row of a benchmark under one metric."""

    score: float
    asked: str
    """fingerprint of the row and of what the model was asked; two models compare only where it is equal"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One metric of one task for one model."""

    task: str
    metric: str
    unit: str
    num_rows: int
    value: float
    stderr: float | None
    """None where the tool gives none"""
    rows: dict[str, RowScore] = field(default_factory=dict)
    """by the tool's own row id; empty where the tool gives no number per row"""


def join(base: Sequence[Measured], tuned: Sequence[Measured]) -> tuple[list[dict[str, Any]], list[str]]:
    """Entries of results.json for the metrics that both models have, in the order of `base`, and sentences on those
    without a difference."""
    of_tuned = {(each.task, each.metric): each for each in tuned}
    entries, notes = [], []
    for one in base:
        other = of_tuned.get((one.task, one.metric))
        if other is None:
            notes.append(f"{one.task}, {one.metric}: measured for the base only")
            continue
        why = _why_not_paired(one, other)
        paired = None
        if why is None:
            ids = sorted(one.rows)
            paired = paired_result(
                [one.rows[i].score for i in ids], [other.rows[i].score for i in ids], seed=_SEED
            )  # fmt: skip
        else:
            notes.append(f"{one.task}, {one.metric}: no difference is given, because {why}")
        entries.append(
            {
                "task": one.task,
                "metric": one.metric,
                "unit": one.unit,
                "num_rows": one.num_rows,
                "base": {"value": one.value, "stderr": one.stderr},
                "tuned": {"value": other.value, "stderr": other.stderr},
                "difference": {
                    "estimate": paired.difference.estimate, "low": paired.difference.low, "high": paired.difference.high
                } if paired else None,
                "p_value": paired.p_value if paired else None,
            }
        )  # fmt: skip
    return entries, notes


def _why_not_paired(base: Measured, tuned: Measured) -> str | None:
    if not base.rows or not tuned.rows:
        return "there is no score per row"
    if base.rows.keys() != tuned.rows.keys():
        return "the two models answered other rows"
    if any(base.rows[i].asked != tuned.rows[i].asked for i in base.rows):
        return "the two models were not asked the same"
    for each in (base, tuned):
        mean = sum(row.score for row in each.rows.values()) / len(each.rows)
        if not math.isclose(mean, each.value, rel_tol=1e-6, abs_tol=1e-9):
            return "its value is not the mean of the rows' scores"
    return None


def write_results(folder: Path, entries: Sequence[dict[str, Any]], *, tool: str, notes: Sequence[str]) -> Path:
    """Write `folder/results.json` whole; returns its path."""
    path = folder / RESULTS
    document = {"tasks": list(entries), "tool": tool, "notes": list(notes)}
    atomic.write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")
    return path


def describe(entry: dict[str, Any]) -> str:
    """One line for people."""

    def show(model: dict[str, Any]) -> str:
        error = "" if model["stderr"] is None else f" +- {model['stderr']:.4g}"
        return f"{model['value']:.4g}{error}"

    text = f"{entry['task']}, {entry['metric']}: base {show(entry['base'])}, tuned {show(entry['tuned'])}"
    if (difference := entry["difference"]) is None:
        return text
    interval = f"{difference['estimate']:+.4g} [{difference['low']:+.4g}, {difference['high']:+.4g}]"
    return f"{text}, difference {interval}, p = {entry['p_value']:.2g}, {entry['num_rows']} rows"
