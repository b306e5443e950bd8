"""Numbers -> inline SVG: line charts with axes and units, and accuracies with their intervals. No script.

Colours and strokes are classes of report.css, so that light, dark and print share one drawing. Every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from typing import Literal

from whet.report.visible import visible

MAX_POINTS = 600
Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or set of points; `style` says how report.css draws it."""

    points: Sequence[Point]
    style: Literal["raw", "smooth", "dots"]


def thin(points: Sequence[Point], max_points: int = MAX_POINTS) -> list[Point]:
    """At most `max_points` of the points: lowest and highest of each bin in order, so that no spike is lost."""
    if len(points) <= max_points:
        return list(points)
    num_bins = max(1, max_points // 2)
    kept: list[Point] = []
    for i in range(num_bins):
        found = points[i * len(points) // num_bins : (i + 1) * len(points) // num_bins]
        low, high = min(found, key=lambda p: p[1]), max(found, key=lambda p: p[1])
        kept += [low] if low == high else sorted((low, high))
    return kept


def smooth(points: Sequence[Point], num_points: int) -> list[Point]:
    """Mean over the `num_points` points around each one (fewer at the ends). Centred: it does not lag behind."""
    sums = [0.0, *accumulate(y for _, y in points)]
    half = num_points // 2
    smoothed = []
    for i, (x, _) in enumerate(points):
        # the window shrinks on both sides alike, or a slope would bend at the ends
        reach = min(half, i, len(points) - 1 - i)
        smoothed.append((x, (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)))
    return smoothed


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high], about `count` of them."""
    rough = (high - low) / max(1, count)
    if not math.isfinite(rough) or rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1, 2, 5) if m * power >= rough), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def label_of(value: float) -> str:
    """A tick label: thousands separated, at most three significant digits for fractions."""
    if value == round(value) and abs(value) < 1e7:
        return f"{round(value):,}"
    return f"{value:.3g}"


def line_chart(
    *, key: str, title: str, summary: str, series: Sequence[Series], x_label: str, y_label: str, is_small: bool = False
) -> str:
    """An SVG figure of the series, or "" when there is no point to draw. `key` makes its element ids unique."""
    drawn = [Series(points=thin(s.points), style=s.style) for s in series if s.points]
    points = [point for s in drawn for point in s.points]
    if not points:
        return ""
    frame = _Frame(points, width=270 if is_small else 720, height=160 if is_small else 330)
    parts = [
        _open(key, title, summary, f'viewBox="0 0 {frame.width} {frame.height}"'),
        frame.axes(x_label, y_label, count=3 if is_small else 5),
        *(frame.draw(s) for s in drawn),
        "</svg>",
    ]
    return "".join(parts)


def interval_chart(*, key: str, title: str, summary: str, rows: Sequence[tuple[str, str, float, float, float]]) -> str:
    """Shares with their intervals on one axis from 0 to 100 %; a row is (label, class, estimate, low, high).

    Positions across are percentages, so that the drawing stretches and its text does not.
    """
    row_height, bottom = 46, 26
    height = row_height * len(rows) + bottom
    parts = [_open(key, title, summary, f'class="fluid" height="{height}"')]
    for percent in range(0, 101, 20):
        anchor = {0: "start", 100: "end"}.get(percent, "middle")
        place = f'x1="{percent}%" x2="{percent}%" y1="0" y2="{height - bottom}"'
        parts.append(f'<line class="grid" {place}/>')
        parts.append(f'<text x="{percent}%" y="{height - 6}" text-anchor="{anchor}">{percent} %</text>')
    for i, (label, style, *shares) in enumerate(rows):
        middle, low, high = (f"{100 * min(max(share, 0.0), 1.0):.2f}%" for share in shares)
        y = row_height * i + 31
        parts.append(f'<text class="name" x="6" y="{y - 13}">{_shown(label)}</text>')
        parts.append(f'<line class="interval {style}" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="estimate {style}" cx="{middle}" cy="{y}" r="6"/>')
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric's difference on its own scale; to the right of the line is better."""

    label: str
    style: Literal["better", "worse", "even"]
    estimate: float
    low: float
    high: float
    missed: float
    """differences of this size or smaller would mostly not be found; 0 where that is not known"""


def difference_chart(*, key: str, title: str, summary: str, rows: Sequence[Difference]) -> str:
    """Differences with their intervals around one line at zero, each row on a scale of its own."""
    row_height, bottom = 46, 26
    height = row_height * len(rows) + bottom
    parts = [_open(key, title, summary, f'class="fluid" height="{height}"')]
    parts.append(f'<line class="zero" x1="50%" x2="50%" y1="0" y2="{height - bottom}"/>')
    for percent, anchor, text in ((0, "start", "base better"), (50, "middle", "0"), (100, "end", "tuned better")):
        parts.append(f'<text x="{percent}%" y="{height - 6}" text-anchor="{anchor}">{text}</text>')
    for i, row in enumerate(rows):
        widest = max(abs(row.low), abs(row.high), row.missed) or 1.0
        middle, low, high, left, right = (
            f"{50 + 48 * _clipped(value / widest):.2f}%"
            for value in (row.estimate, row.low, row.high, -row.missed, row.missed)
        )
        y = row_height * i + 31
        parts.append(f'<text class="name" x="6" y="{y - 13}">{_shown(row.label)}</text>')
        if row.missed:
            parts.append(f'<line class="missed" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<line class="interval {row.style}" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="estimate {row.style}" cx="{middle}" cy="{y}" r="6"/>')
    return "".join([*parts, "</svg>"])


def _clipped(share: float) -> float:
    return min(1.0, max(-1.0, share))


def _shown(text: str) -> str:
    return escape(str(visible(text)))


def _open(key: str, title: str, summary: str, attributes: str) -> str:
    return (
        f'<svg {attributes} role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{_shown(title)}</title><desc id="{key}-desc">{_shown(summary)}</desc>'
    )


class _Frame:
    """The plotting area: data coordinates to SVG coordinates."""

    def __init__(self, points: Sequence[Point], *, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = 58, 18, 26, 52
        self.x_low, self.x_high = padded([x for x, _ in points], 0.0)
        self.y_low, self.y_high = padded([y for _, y in points], 0.06)

    def x(self, value: float) -> float:
        return self.left + (self.width - self.left - self.right) * _share(value, self.x_low, self.x_high)

    def y(self, value: float) -> float:
        return (
            self.height - self.bottom - (self.height - self.top - self.bottom) * _share(value, self.y_low, self.y_high)
        )

    def axes(self, x_label: str, y_label: str, count: int) -> str:
        x_end, y_end = self.width - self.right, self.height - self.bottom
        parts = [f'<text class="unit" x="4" y="14">{_shown(y_label)}</text>']
        for value in ticks(self.y_low, self.y_high, count):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{self.left}" x2="{x_end}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(
                f'<text class="tick" x="{self.left - 8}" y="{y + 4:.1f}" text-anchor="end">{label_of(value)}</text>'
            )
        for value in ticks(self.x_low, self.x_high, count):
            x = self.x(value)
            parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y_end}" y2="{y_end + 5}"/>')
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{y_end + 20}" text-anchor="middle">{label_of(value)}</text>'
            )
        parts.append(f'<line class="axis" x1="{self.left}" x2="{x_end}" y1="{y_end}" y2="{y_end}"/>')
        middle = (self.left + x_end) / 2
        parts.append(
            f'<text class="unit" x="{middle:.1f}" y="{self.height - 6}" text-anchor="middle">{_shown(x_label)}</text>'
        )
        return "".join(parts)

    def draw(self, series: Series) -> str:
        places = [(self.x(x), self.y(y)) for x, y in series.points]
        if series.style == "dots":
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in places)
            return f'<polyline class="thread" points="{line}"/>{dots}'
        if len(places) == 1:
            return f'<circle class="{series.style}-dot" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3"/>'
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        return f'<polyline class="{series.style}" points="{line}"/>'


def padded(values: Sequence[float], margin: float) -> tuple[float, float]:
    """Ends of an axis: the range of the values with so large a share of it on both sides."""
    low, high = min(values), max(values)
    if low == high:
        half = abs(low) * 0.5 or 0.5
        return low - half, high + half
    pad = (high / 2 - low / 2) * 2 * margin
    padded_low = low - pad
    # a quantity that is never negative keeps its axis at zero or above
    return (max(0.0, padded_low) if low >= 0 else padded_low), high + pad


def _share(value: float, low: float, high: float) -> float:
    # halves first: the span of two huge numbers of opposite sign would overflow
    return (value / 2 - low / 2) / (high / 2 - low / 2)
