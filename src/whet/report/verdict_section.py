"""What the report shows of each evaluation set: metrics with their differences, categories, rates and row samples."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from whet.report import charts
from whet.report.run_folder import Evaluation
from whet.report.samples import choose_samples
from whet.types import Comparison, MetricComparison
from whet.verdict.words import amount, change, is_share, short_unit

ACCURACY = "answer_accuracy"


def evaluation_section(evaluation: Evaluation, index: int) -> dict[str, Any]:
    """The values that report.html.j2 shows of one set; `index` makes ids unique."""
    c = evaluation.comparison
    metrics = metrics_of(c) if c else ()
    has_accuracy = c is None or any(metric.name == ACCURACY for metric in metrics)
    return {
        "dataset": evaluation.dataset,
        "decoding": evaluation.decoding,
        "comparison": c,
        "accuracy_chart": _accuracy_chart(c, index) if c and has_accuracy else "",
        "difference_chart": _difference_chart(metrics, index),
        "metrics": [metric_row(metric) for metric in metrics],
        "seeds": [row for metric in metrics[:1] for row in _seed_rows(metric, c)],
        "categories": [_category_row(category, metrics[0].unit) for category in c.categories] if c else [],
        "rates": _rates(c, has_accuracy) if c else [],
        "figures": [
            (name, f"{base:.4g}", f"{tuned:.4g}", f"{tuned - base:+.3g}") for name, base, tuned in evaluation.figures
        ],
        "shows_right": has_accuracy,
        "groups": choose_samples(evaluation.pairs, c),
        "num_pairs": len(evaluation.pairs),
    }


def metrics_of(c: Comparison) -> tuple[MetricComparison, ...]:
    """The metrics of the comparison; one of an earlier version has the accuracy alone."""
    if c.metrics:
        return c.metrics
    return (
        MetricComparison(
            name=ACCURACY,
            unit="share, 0 or 1",
            higher_is_better=True,
            num_rows=c.num_rows,
            num_left_out=0,
            base_mean=c.base_accuracy.estimate,
            tuned_mean=c.tuned_accuracy.estimate,
            difference=c.difference,
            p_value=c.p_value,
            adjusted_p=c.p_value,
            detectable=None,
            verdict=c.verdict,
        ),
    )


def metric_row(m: MetricComparison) -> dict[str, Any]:
    """name, what it counts in and on, and the cells: verdict, difference, interval, p, adjusted p, what would have
    shown, base, tuned, rows"""
    left_out = f", {m.num_left_out:,} rows without a score" if m.num_left_out else ""
    cells = [
        m.verdict or "no direction",
        change(m.difference.estimate, m.unit),
        _interval(m.difference.low, m.difference.high, m.unit),
        f"{m.p_value:.2g}",
        "-" if m.adjusted_p is None else f"{m.adjusted_p:.2g}",
        "-" if m.detectable is None else change(m.detectable, m.unit).lstrip("+"),
        _plain(m.base_mean, m.unit),
        _plain(m.tuned_mean, m.unit),
        f"{m.num_rows:,}",
    ]
    return {"name": m.name, "note": short_unit(m.unit) + left_out, "cells": cells}


def _plain(value: float, unit: str) -> str:
    """Without the unit where it is no share: the metric's name carries it."""
    return amount(value, unit) if is_share(unit) else f"{value:.4g}"


def _category_row(category: MetricComparison, unit: str) -> list[str]:
    return [
        category.name or "(no category)",
        category.verdict or "-",
        change(category.difference.estimate, unit),
        _interval(category.difference.low, category.difference.high, unit),
        "-" if category.adjusted_p is None else f"{category.adjusted_p:.2g}",
        _plain(category.base_mean, unit),
        _plain(category.tuned_mean, unit),
        f"{category.num_rows:,}",
    ]


def _seed_rows(metric: MetricComparison, c: Comparison | None) -> list[tuple[str, str]]:
    """(side, each seed's own mean) where a side is several runs."""
    if c is None:
        return []
    sides = ((c.base_name, metric.base_seed_means), (c.tuned_name, metric.tuned_seed_means))
    return [(name, ", ".join(amount(mean, metric.unit) for mean in means)) for name, means in sides if means]


def _rates(c: Comparison, has_accuracy: bool) -> list[tuple[str, str, str, str]]:
    """(what, base, tuned, change in points)"""
    rates = [("Ended by itself", c.base_stop_rate, c.tuned_stop_rate)]
    if has_accuracy:
        rates = [
            ("Right answers", c.base_accuracy.estimate, c.tuned_accuracy.estimate),
            ("In the asked-for format", c.base_format_rate, c.tuned_format_rate),
            *rates,
        ]
    return [(what, _percent(base), _percent(tuned), f"{100 * (tuned - base):+.1f}") for what, base, tuned in rates]


def _accuracy_chart(c: Comparison, index: int) -> Markup:
    rows = [
        (f"{name} {_percent(i.estimate)} ({_percent(i.low)} to {_percent(i.high)})", style, i.estimate, i.low, i.high)
        for name, style, i in ((c.base_name, "base", c.base_accuracy), (c.tuned_name, "tuned", c.tuned_accuracy))
    ]
    svg = charts.interval_chart(
        key=f"accuracy-{index}",
        title="Accuracy with 95 % intervals",
        summary="; ".join(label for label, *_ in rows),
        rows=rows,
    )
    return Markup(svg)  # noqa: S704 built from numbers and escaped labels


def _difference_chart(metrics: tuple[MetricComparison, ...], index: int) -> Markup | str:
    """Every metric's difference; to the right of the line is better, whichever way the metric counts."""
    if len(metrics) < 2:
        return ""
    rows = [_difference(metric) for metric in metrics]
    svg = charts.difference_chart(
        key=f"differences-{index}",
        title="Differences of all metrics with 95 % intervals, each on its own scale",
        summary="; ".join(row.label for row in rows),
        rows=rows,
    )
    return Markup(svg)  # noqa: S704 built from numbers and escaped labels


def _difference(metric: MetricComparison) -> charts.Difference:
    difference, sign = metric.difference, -1 if metric.higher_is_better is False else 1
    low, high = sorted((sign * difference.low, sign * difference.high))
    interval = _interval(difference.low, difference.high, metric.unit)
    return charts.Difference(
        label=f"{metric.name} {_with_unit(difference.estimate, metric.unit)} ({interval})",
        style="better" if metric.verdict == "better" else "worse" if metric.verdict == "worse" else "even",
        estimate=sign * difference.estimate,
        low=low,
        high=high,
        missed=metric.detectable or 0.0,
    )


def _with_unit(difference: float, unit: str) -> str:
    return f"{change(difference, unit)} {short_unit(unit)}".rstrip()


def _interval(low: float, high: float, unit: str) -> str:
    return f"{change(low, unit)} to {change(high, unit)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
