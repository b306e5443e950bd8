"""Charts keep the extremes, put round numbers on their axes, and place points where they belong."""

import re

import numpy as np
import pytest

from whet.report import charts


def test_thinning_keeps_every_spike_the_order_and_the_limit() -> None:
    generator = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in enumerate(generator.normal(size=20_001))]
    points[7777] = (7777.0, 50.0)
    points[12_345] = (12_345.0, -50.0)
    thinned = charts.thin(points)
    assert len(thinned) <= charts.MAX_POINTS
    assert (7777.0, 50.0) in thinned and (12_345.0, -50.0) in thinned
    assert thinned == sorted(thinned) and set(thinned) <= set(points)
    assert charts.thin(points[:600]) == points[:600]


def test_smoothing_is_the_mean_of_the_neighbours() -> None:
    values = np.random.default_rng(1).normal(size=40)
    smoothed = charts.smooth(list(enumerate(values)), 7)
    for i, (x, y) in enumerate(smoothed):
        reach = min(3, i, 39 - i)
        assert x == i
        assert y == pytest.approx(values[i - reach : i + reach + 1].mean())


def test_smoothing_leaves_a_straight_line_alone() -> None:
    line = [(float(x), 3.0 - 0.1 * x) for x in range(30)]
    np.testing.assert_allclose(charts.smooth(line, 9), line, atol=1e-12)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (0.93, 3.2, [1.0, 1.5, 2.0, 2.5, 3.0]),
        (1.0, 20_000.0, [5000, 10_000, 15_000, 20_000]),
        (-1.0, 1.0, [-1.0, -0.5, 0.0, 0.5, 1.0]),
        (5.0, 5.0, [5.0]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert charts.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(("value", "label"), [(20_000.0, "20,000"), (0.0002, "0.0002"), (2.5, "2.5"), (1e-9, "1e-09")])
def test_tick_labels_are_short(value: float, label: str) -> None:
    assert charts.label_of(value) == label


def test_points_stand_where_the_ticks_say() -> None:
    points = [(0.0, 0.0), (50.0, 1.0), (100.0, 2.0)]
    svg = charts.line_chart(
        key="k",
        title="t",
        summary="s",
        series=[charts.Series(points=points, style="smooth")],
        x_label="x",
        y_label="y",
    )
    drawn = re.search(r'<polyline class="smooth" points="([^"]+)"', svg)
    assert drawn
    places = [tuple(map(float, place.split(","))) for place in drawn[1].split()]
    at = {
        text: (float(x), float(y))
        for x, y, text in re.findall(r'<text class="tick" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]+)', svg)
    }
    assert places[2][0] == pytest.approx(at["100"][0], abs=0.2)
    assert places[1][1] == pytest.approx(at["1"][1] - 4, abs=0.2)
    assert places[0][1] > places[1][1] > places[2][1], "a larger value stands higher"


def test_intervals_are_placed_in_percent_and_clamped() -> None:
    svg = charts.interval_chart(key="k", title="t", summary="s", rows=[("<b>", "base", 0.25, -0.1, 0.5)])
    assert 'x1="0.00%" x2="50.00%"' in svg
    assert 'cx="25.00%"' in svg
    assert "&lt;b&gt;" in svg and "<b>" not in svg


def test_nothing_to_draw_is_no_chart() -> None:
    assert charts.line_chart(key="k", title="t", summary="s", series=[], x_label="x", y_label="y") == ""
