"""Run folder -> report.html: one file, no network, no script, every text escaped.

report.html.j2 is the page and report.css its looks; this file turns a RunView into what the page shows. jinja2
escapes every value, and `visible` goes over it first: what a reader cannot see must not change what a reader reads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from whet import atomic
from whet.report import charts, ledger_section
from whet.report.benchmark_section import benchmark_table
from whet.report.facts import commands, facts, status_of, subtitle
from whet.report.live_charts import live_charts
from whet.report.run_folder import RunView, read_run_folder
from whet.report.verdict_section import evaluation_section
from whet.report.visible import visible
from whet.verdict import overall

FILE_NAME = "report.html"
_HERE = Path(__file__).parent
_MAX_EVENTS = 50
_MAX_ENTRIES = 100
_MIN_SMOOTHED = 10


def write_report(run_folder: Path) -> Path:
    """Write `<run folder>/report.html` from the files of the run folder and return its path.

    Missing or damaged files become sentences in the report. Raises StorageError when `run_folder` is no run folder
    or cannot be written.
    """
    path = run_folder / FILE_NAME
    atomic.write_text(path, render(read_run_folder(run_folder)))
    return path


def page_template(name: str) -> jinja2.Template:
    """A page of this folder; every value in it is made visible and escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def render(run: RunView) -> str:
    """The whole page; the same run folder gives the same bytes."""
    return page_template(
        "report.html.j2"
    ).render(
        css=Markup((_HERE / "report.css").read_text(encoding="utf-8")),  # noqa: S704 our own file
        run=run,
        status=status_of(run),
        subtitle=subtitle(run),
        facts=facts(run),
        bottleneck=str(run.summary.get("bottleneck") or ""),
        loss_chart=_loss_chart(run),
        legend=_legend(run),
        loss_rows=_loss_rows(run),
        small_charts=_small_charts(run),
        live_charts=live_charts(run),
        overall=_overall(run),
        evaluations=[evaluation_section(evaluation, i) for i, evaluation in enumerate(run.evaluations)],
        benchmarks=[benchmark_table(results) for results in run.benchmarks],
        token_table=ledger_section.token_table(run.data),
        ledger_statuses=ledger_section.STATUSES,
        ledger_table=ledger_section.ledger_table(run.ledger),
        ledger_rows=ledger_section.ledger_rows(run.ledger),
        notes=_texts(run.data.get("notes")),
        tables=[
            (heading, entries)
            for heading, entries in (
                ("Model", _entries(run.model)),
                ("Plan", _entries(run.plan)),
                ("Environment", _entries(run.environment)),
                ("Kernels", _entries(_object(run.summary.get("kernels")))),
                ("Seconds of training", _entries(_object(run.summary.get("seconds_by_part")))),
                ("Seconds until the first step was done", _entries(_object(run.summary.get("startup_seconds")))),
            )
            if entries
        ],
        commands=commands(run),
        incidents=run.incidents[-_MAX_EVENTS:],
        num_earlier_incidents=max(0, len(run.incidents) - _MAX_EVENTS),
        events=run.events[-_MAX_EVENTS:],
        num_earlier_events=max(0, len(run.events) - _MAX_EVENTS),
    )


def _with_mean(points: list[charts.Point]) -> list[charts.Series]:
    """The points as they are, with their moving mean on top where there are enough of them."""
    if len(points) < _MIN_SMOOTHED:
        return [charts.Series(points=points, style="smooth")]
    mean = charts.smooth(points, max(3, len(points) // 30))
    return [charts.Series(points=points, style="raw"), charts.Series(points=mean, style="smooth")]


def _loss_chart(run: RunView) -> Markup:
    points = [(float(point.step), point.loss) for point in run.steps if point.loss is not None]
    evals = _validation_losses(run)
    summary = "; ".join(
        f"{name} loss from {found[0][1]:.3f} at step {found[0][0]:,.0f} to {found[-1][1]:.3f} at {found[-1][0]:,.0f}"
        for name, found in (("training", points), ("validation", evals))
        if found
    )
    svg = charts.line_chart(
        key="loss",
        title="Loss by optimizer step",
        summary=summary,
        series=[*_with_mean(points), charts.Series(points=evals, style="dots")],
        x_label="optimizer step",
        y_label="loss, nats per taught token",
    )
    return Markup(svg)  # noqa: S704 built from numbers and escaped labels


def _validation_losses(run: RunView) -> list[charts.Point]:
    return [(float(point.step), point.loss) for point in run.evals if point.loss is not None]


def _overall(run: RunView) -> str:
    """The line over all sets, where there are several."""
    comparisons = [e.comparison for e in run.evaluations if e.comparison]
    return overall(comparisons).sentence if len(comparisons) > 1 else ""


def _legend(run: RunView) -> list[tuple[str, str]]:
    """(style, label) of what the loss chart draws."""
    num_losses = sum(point.loss is not None for point in run.steps)
    train = [("raw", "training, every step"), ("smooth", "training, smoothed")]
    if num_losses < _MIN_SMOOTHED:
        train = [("smooth", "training")] if num_losses else []
    return train + ([("dots", "validation")] if _validation_losses(run) else [])


def _loss_rows(run: RunView) -> list[tuple[str, str, str]]:
    """About a dozen steps of the loss chart as a table, for those who do not see the chart."""
    train = {point.step: point.loss for point in run.steps if point.loss is not None}
    evals = {round(step): loss for step, loss in _validation_losses(run)}
    steps = sorted(train.keys() | evals.keys())
    wanted = {steps[round(i * (len(steps) - 1) / 11)] for i in range(12)} if steps else set()

    def cell(losses: dict[int, float], step: int) -> str:
        return f"{losses[step]:.4f}" if step in losses else "-"

    return [(f"{step:,}", cell(train, step), cell(evals, step)) for step in sorted(wanted)]


def _small_charts(run: RunView) -> list[tuple[str, Markup]]:
    found = []
    for field, title, unit in (
        ("lr", "Learning rate", "learning rate"),
        ("tokens_per_second", "Speed", "tokens per second"),
        ("grad_norm", "Gradient norm", "L2 norm before clipping"),
    ):
        points = [(float(point.step), value) for point in run.steps if (value := getattr(point, field)) is not None]
        if not points:
            continue
        svg = charts.line_chart(
            key=field,
            title=title,
            summary=f"{unit} from {points[0][1]:.3g} to {points[-1][1]:.3g} over {len(points):,} steps",
            series=_with_mean(points) if field != "lr" else [charts.Series(points=points, style="smooth")],
            x_label="optimizer step",
            y_label=unit,
            is_small=True,
        )
        found.append((title, Markup(svg)))  # noqa: S704 built from numbers and escaped labels
    return found


def _entries(value: dict[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), _cell(item)) for name, item in list(value.items())[:_MAX_ENTRIES]]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 1000 else f"{text[:1000]} ..."


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: object) -> Sequence[str]:
    return [str(item) for item in _list(value)[:_MAX_ENTRIES]]
