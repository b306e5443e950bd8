"""Curves of characters: as large as asked, every spike kept, the same shape in ASCII."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from whet.report.terminal_chart import draw

NUMBERS = st.floats(-1e290, 1e290)
POINTS = st.lists(st.tuples(st.integers(0, 10**6).map(float), NUMBERS), max_size=60).map(sorted)


def rows_of(pieces):
    return ["".join(piece.text for piece in row) for row in pieces]


@given(line=POINTS, dots=POINTS, width=st.integers(1, 120), height=st.integers(1, 20), is_ascii=st.booleans())
def test_no_row_is_wider_and_no_chart_higher_than_asked(line, dots, width, height, is_ascii):
    rows = rows_of(draw(line, dots, width=width, height=height, is_ascii=is_ascii))
    assert all(len(row) <= width for row in rows) and len(rows) in (0, height + 2)
    assert not is_ascii or all(row.isascii() for row in rows)


def test_a_falling_line_goes_from_the_upper_left_to_the_lower_right():
    rows = rows_of(draw([(0.0, 1.0), (10.0, 0.0)], [], width=50, height=5, is_ascii=True))
    places = [row.index("*") for row in rows[:5]]
    assert places == sorted(places) and places[0] < places[-1]
    assert rows[-1].split() == ["0", "10"]


def test_one_spike_among_thousands_of_points_is_drawn():
    line = [(float(i), 9.0 if i == 4321 else 1.0) for i in range(10_000)]
    rows = rows_of(draw(line, [], width=60, height=8, is_ascii=True))
    assert "*" in rows[0] and sum("*" in row for row in rows[:8]) == 8


def test_measured_points_stand_on_top_of_the_line():
    rows = rows_of(draw([(0.0, 0.0), (10.0, 1.0)], [(5.0, 0.5)], width=40, height=5))
    assert sum(row.count("\u25cf") for row in rows) == 1
