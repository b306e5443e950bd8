"""Run folder -> report.html: one file, no network, no script, every text escaped.

report.html.j2 is the page and report.css its looks; this file turns a RunView into what the page shows. jinja2
escapes every value, and `visible` goes over it first: what a reader cannot see must not change what a reader reads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from whet import atomic
from whet.report import charts, ledger_section
from whet.report.benchmark_section import benchmark_table
from whet.report.estimate_section import estimate_rows
from whet.report.facts import commands, facts, status_of, subtitle
from whet.report.live_charts import live_charts
from whet.report.provenance_section import setting_rows
from whet.report.run_folder import RunView, read_run_folder
from whet.report.verdict_section import evaluation_section
from whet.report.visible import MAX_TEXT, visible
from whet.verdict import overall

FILE_NAME = "report.html"
_HERE = Path(__file__).parent
_MAX_EVENTS = 50
_MAX_ENTRIES = 100
_MAX_LIVE_ROWS = 12
_MIN_SMOOTHED = 10
MAX_BYTES = 1_000_000
"""of the page: small enough for a mail"""
_TEXT_LENGTHS = (MAX_TEXT, 4_000, 1_000, 250, 60)
"""characters that a text may have; the first that makes the page small enough"""


def write_report(run_folder: Path) -> Path:
    """Write `<run folder>/report.html` from the files of the run folder and return its path.

    Missing or damaged files become sentences in the report. Raises StorageError when `run_folder` is no run folder
    or cannot be written.
    """
    path = run_folder / FILE_NAME
    atomic.write_text(path, render(read_run_folder(run_folder)))
    return path


def page_template(name: str, *, max_text: int = MAX_TEXT) -> jinja2.Template:
    """A page of this folder; every value in it is made visible, bounded in length and escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=partial(visible, max_text=max_text),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def render(run: RunView) -> str:
    """The whole page in less than a megabyte; the same run folder gives the same bytes."""
    for max_text in _TEXT_LENGTHS:
        page = _render(run, max_text=max_text)
        if len(page.encode("utf-8", errors="surrogatepass")) < MAX_BYTES:
            break
    return page


def _render(run: RunView, *, max_text: int) -> str:
    return page_template(
        "report.html.j2", max_text=max_text
    ).render(
        css=Markup((_HERE / "report.css").read_text(encoding="utf-8")),  # noqa: S704 our own file
        run=run,
        status=status_of(run),
        subtitle=subtitle(run),
        facts=facts(run),
        bottleneck=str(run.summary.get("bottleneck") or ""),
        loss_chart=_loss_chart(run),
        small_loss_chart=_loss_chart(run, is_small=True),
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
        rows=run.rows[:_MAX_LIVE_ROWS],
        estimates=estimate_rows(run.summary),
        settings=setting_rows(run.recipe, run.settings, run.plan),
        packages=run.packages,
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


def _loss_chart(run: RunView, *, is_small: bool = False) -> Markup:
    points = [(float(point.step), point.loss) for point in run.steps if point.loss is not None]
    evals = _validation_losses(run)
    summary = "; ".join(
        f"{name} loss from {found[0][1]:.3f} at step {found[0][0]:,.0f} to {found[-1][1]:.3f} at {found[-1][0]:,.0f}"
        for name, found in (("training", points), ("validation", evals))
        if found
    )
    svg = charts.line_chart(
        key="loss-small" if is_small else "loss",
        title="Loss by optimizer step",
        summary=summary,
        series=[*_with_mean(points), charts.Series(points=evals, style="dots")],
        x_label="optimizer step",
        y_label="loss, nats per taught token",
        is_small=is_small,
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
    wanted = {*_spread(steps, 6), *_spread(sorted(evals), 8)}

    def cell(losses: dict[int, float], step: int) -> str:
        return f"{losses[step]:.4f}" if step in losses else "-"

    return [(f"{step:,}", cell(train, step), cell(evals, step)) for step in sorted(wanted)]


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """At most so many of them, the first and the last among them."""
    return [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)] if steps else []


def _small_charts(run: RunView) -> list[tuple[str, Markup]]:
    curves: list[tuple[str, str, list[charts.Point]]] = [
        (title, unit, [(float(p.step), value) for p in run.steps if (value := getattr(p, field)) is not None])
        for field, title, unit in (
            ("lr", "Learning rate", "learning rate"),
            ("tokens_per_second", "Speed", "tokens per second"),
            ("grad_norm", "Gradient norm", "L2 norm before clipping"),
        )
    ]
    for name in dict.fromkeys(name for point in run.steps for name in point.machine):
        scale, unit = (2**30, "GiB") if name.endswith("_bytes") else (1, name.rsplit("_", 1)[-1])
        points = [(float(p.step), p.machine[name] / scale) for p in run.steps if name in p.machine]
        curves.append((name.removesuffix("_bytes").replace("_", " ").capitalize(), unit, points))
    return [(title, _small_chart(i, title, unit, points)) for i, (title, unit, points) in enumerate(curves) if points]


def _small_chart(index: int, title: str, unit: str, points: list[charts.Point]) -> Markup:
    svg = charts.line_chart(
        key=f"small-{index}",
        title=title,
        summary=f"{unit} from {points[0][1]:.3g} to {points[-1][1]:.3g} over {len(points):,} steps",
        series=[charts.Series(points=points, style="smooth")] if title == "Learning rate" else _with_mean(points),
        x_label="optimizer step",
        y_label=unit,
        is_small=True,
    )
    return Markup(svg)  # noqa: S704 built from numbers and escaped labels


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
