"""Small charts of what was measured of the model in training: any number under any name that an `eval` line has."""

from __future__ import annotations

from markupsafe import Markup

from whet.report import charts
from whet.report.run_folder import RunView

_MAX_CHARTS = 40


def live_charts(run: RunView) -> list[tuple[str, Markup]]:
    """(title, chart) in the order in which the names first appear; the validation loss has a chart of its own."""
    names = [name for name in dict.fromkeys(name for point in run.evals for name in point.values) if name != "loss"]
    return [(_words(name), _chart(run, name, index)) for index, name in enumerate(names[:_MAX_CHARTS])]


def _words(name: str) -> str:
    """With places where a line may break."""
    return name.replace("_", " ")


def _chart(run: RunView, name: str, index: int) -> Markup:
    points = [(float(point.step), point.values[name]) for point in run.evals if name in point.values]
    svg = charts.line_chart(
        key=f"live-{index}",
        title=_words(name),
        summary=f"from {points[0][1]:.4g} at step {points[0][0]:,.0f} to {points[-1][1]:.4g} at {points[-1][0]:,.0f}",
        series=[charts.Series(points=points, style="dots")],
        x_label="optimizer step",
        y_label=_words(name),
        is_small=True,
    )
    return Markup(svg)  # noqa: S704 built from numbers and escaped labels
