"""Run folder -> report.html: one file, no network, no script, every text escaped.

report.html.j2 is the page and report.css its looks; this file turns a RunView into what the page shows. jinja2
escapes every value, and `visible` goes over it first: what a reader cannot see must not change what a reader reads.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from whet import atomic
from whet.report import charts, ledger_section
from whet.report.run_folder import Evaluation, RunView, finite, read_run_folder
from whet.report.samples import choose_samples

FILE_NAME = "report.html"
_HERE = Path(__file__).parent
_MAX_TEXT = 20_000
_MAX_EVENTS = 50
_MAX_ENTRIES = 100
_MIN_SMOOTHED = 10

# control characters but tab and newline, soft hyphen, direction marks and overrides (U+202E turns text around),
# zero-width characters but the joiners that scripts and emoji need, line separators, byte order mark, lone surrogates,
# tag characters
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


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
        status=str(run.summary.get("status") or "no summary yet: still running, or ended without one"),
        subtitle=_subtitle(run),
        facts=_facts(run),
        loss_chart=_loss_chart(run),
        legend=_legend(run),
        loss_rows=_loss_rows(run),
        small_charts=_small_charts(run),
        evaluations=[_evaluation(evaluation, i) for i, evaluation in enumerate(run.evaluations)],
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
            )
            if entries
        ],
        commands=_commands(run),
        events=run.events[-_MAX_EVENTS:],
        num_earlier_events=max(0, len(run.events) - _MAX_EVENTS),
    )


def visible(value: object) -> object:
    """Text with invisible and direction-changing characters written out (`<U+202E>`) and its length bounded."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n")
    if len(text) > _MAX_TEXT:
        text = f"{text[:_MAX_TEXT]} ... ({len(text) - _MAX_TEXT:,} more characters)"
    return _INVISIBLE.sub(lambda match: f"<U+{ord(match[0]):04X}>", text)


def _subtitle(run: RunView) -> list[str]:
    parts = [str(run.model.get("id", ""))]
    if run.steps:
        total = finite(run.plan.get("total_steps"))
        parts.append(f"step {run.steps[-1].step:,}" + (f" of {total:,.0f}" if total else ""))
    seconds = finite(run.summary.get("seconds"))
    if seconds is not None:
        parts.append(_duration(seconds))
    return [part for part in parts if part]


def _facts(run: RunView) -> list[tuple[str, str]]:
    """Headline numbers, each only if the run recorded it."""
    losses = [point.loss for point in run.steps if point.loss is not None]
    speed, tokens, peak = (
        finite(run.summary.get(name)) for name in ("tokens_per_second", "tokens", "peak_memory_bytes")
    )
    facts = []
    if losses:
        facts.append(("Training loss", f"{losses[0]:.3f} to {losses[-1]:.3f}"))
    if run.evals:
        best = min(run.evals, key=lambda point: point.loss)
        facts.append(("Lowest validation loss", f"{best.loss:.3f} at step {best.step:,}"))
    if tokens is not None:
        facts.append(("Tokens trained on", f"{tokens:,.0f}"))
    if speed is not None:
        facts.append(("Tokens per second", f"{speed:,.0f}"))
    if peak is not None:
        facts.append(("Peak memory", f"{peak / 2**30:.2f} GiB"))
    return facts


def _with_mean(points: list[charts.Point]) -> list[charts.Series]:
    """The points as they are, with their moving mean on top where there are enough of them."""
    if len(points) < _MIN_SMOOTHED:
        return [charts.Series(points=points, style="smooth")]
    mean = charts.smooth(points, max(3, len(points) // 30))
    return [charts.Series(points=points, style="raw"), charts.Series(points=mean, style="smooth")]


def _loss_chart(run: RunView) -> Markup:
    points = [(float(point.step), point.loss) for point in run.steps if point.loss is not None]
    evals = [(float(point.step), point.loss) for point in run.evals]
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


def _legend(run: RunView) -> list[tuple[str, str]]:
    """(style, label) of what the loss chart draws."""
    num_losses = sum(point.loss is not None for point in run.steps)
    train = [("raw", "training, every step"), ("smooth", "training, smoothed")]
    if num_losses < _MIN_SMOOTHED:
        train = [("smooth", "training")] if num_losses else []
    return train + ([("dots", "validation")] if run.evals else [])


def _loss_rows(run: RunView) -> list[tuple[str, str, str]]:
    """About a dozen steps of the loss chart as a table, for those who do not see the chart."""
    train = {point.step: point.loss for point in run.steps if point.loss is not None}
    evals = {point.step: point.loss for point in run.evals}
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


def _evaluation(evaluation: Evaluation, index: int) -> dict[str, Any]:
    comparison = evaluation.comparison
    chart = ""
    if comparison is not None:
        rows = [
            (
                f"{name} {_percent(i.estimate)} ({_percent(i.low)} to {_percent(i.high)})",
                name,
                i.estimate,
                i.low,
                i.high,
            )
            for name, i in (("base", comparison.base_accuracy), ("tuned", comparison.tuned_accuracy))
        ]
        chart = charts.interval_chart(
            key=f"accuracy-{index}",
            title="Accuracy with 95 % intervals",
            summary="; ".join(label for label, *_ in rows),
            rows=rows,
        )
    return {
        "dataset": evaluation.dataset,
        "decoding": evaluation.decoding,
        "comparison": comparison,
        "chart": Markup(chart),  # noqa: S704 built from numbers and fixed labels
        "rates": _rates(evaluation),
        "groups": choose_samples(evaluation.pairs),
        "num_pairs": len(evaluation.pairs),
    }


def _rates(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    """(what, base, tuned, change in points)"""
    c = evaluation.comparison
    if c is None:
        return []
    return [
        (what, _percent(base), _percent(tuned), f"{100 * (tuned - base):+.1f}")
        for what, base, tuned in (
            ("Right answers", c.base_accuracy.estimate, c.tuned_accuracy.estimate),
            ("In the asked-for format", c.base_format_rate, c.tuned_format_rate),
            ("Ended by itself", c.base_stop_rate, c.tuned_stop_rate),
        )
    ]


def _commands(run: RunView) -> str:
    version = run.environment.get("whet")
    folder = shlex.quote(run.folder_name)
    lines = [f"pip install {shlex.quote(f'whet=={version}')}"] if version else []
    if run.recipe:
        lines.append("whet train recipe.yaml")
    if run.evaluations:
        lines.append(f"whet compare {folder}")
    return "\n".join([*lines, f"whet report {folder}"])


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


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = math.floor(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
