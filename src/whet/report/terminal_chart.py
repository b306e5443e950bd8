"""Numbers -> a curve of characters with axes, for a terminal: Braille dots, 2 x 4 in a character, or plain ASCII.

Points are thinned as in the report, so that no spike is lost. Dots of a cell are the bits of U+2800, as Unicode has
them (chapter 21.1, Braille Patterns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from whet.report.charts import Point, label_of, padded, thin, ticks

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""row, column -> bit"""
_BRAILLE = 0x2800
_LABEL_WIDTH = 8
_FEWEST_COLUMNS = 24
"""room for the two numbers below the axis"""

Style = Literal["", "axis", "line", "dots"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Characters that look alike."""

    text: str
    style: Style


def draw(
    line: Sequence[Point], dots: Sequence[Point], *, width: int, height: int, is_ascii: bool = False
) -> list[list[Piece]]:  # fmt: skip
    """`height` + 2 rows of at most `width` characters: `line` connected, `dots` on top of it, an axis with numbers.

    [] where there is no point, or no room.
    """
    columns = width - _LABEL_WIDTH - 2
    points = [*line, *dots]
    if not points or columns < _FEWEST_COLUMNS or height < 2:
        return []
    grid = _Grid(points, columns, height)
    drawn = thin(line, 2 * columns)
    for first, second in pairwise(drawn):
        grid.connect(first, second)
    if len(drawn) == 1:
        grid.connect(drawn[0], drawn[0])
    marks = {grid.cell(point) for point in dots}
    values = ticks(grid.y_low, grid.y_high, height // 3)
    labels = {grid.cell((grid.x_low, value))[1]: label_of(value)[:_LABEL_WIDTH] for value in values}
    side = "|" if is_ascii else "\u2502"
    rows = [
        [Piece(text=f"{labels.get(row, ''):>{_LABEL_WIDTH}} {side}", style="axis"), *_row(grid, row, marks, is_ascii)]
        for row in range(height)
    ]
    corner = "+" + "-" * columns if is_ascii else "\u2514" + "\u2500" * columns
    left, right = label_of(grid.x_low), label_of(grid.x_high)
    return [
        *rows,
        [Piece(text=" " * (_LABEL_WIDTH + 1) + corner, style="axis")],
        [Piece(text=" " * (_LABEL_WIDTH + 2) + left + right.rjust(columns - len(left)), style="axis")],
    ]


def _row(grid: _Grid, row: int, marks: set[tuple[int, int]], is_ascii: bool) -> list[Piece]:
    pieces: list[Piece] = []
    for column in range(grid.columns):
        if (column, row) in marks:
            text, style = "o" if is_ascii else "\u25cf", "dots"
        elif bits := grid.bits[row][column]:
            text, style = "*" if is_ascii else chr(_BRAILLE + bits), "line"
        else:
            text, style = " ", ""
        if pieces and pieces[-1].style == style:
            text = pieces.pop().text + text
        pieces.append(Piece(text=text, style=style))  # type: ignore[arg-type]
    return pieces


class _Grid:
    """Dots, 2 across and 4 down in each character."""

    def __init__(self, points: Sequence[Point], columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.bits = [[0] * columns for _ in range(rows)]
        xs = [x for x, _ in points]
        self.x_low, self.x_high = min(xs), max(xs)
        self.y_low, self.y_high = padded([y for _, y in points], 0.02)

    def place(self, point: Point) -> tuple[int, int]:
        """Dot from the left, dot from the top."""
        x = _share(point[0], self.x_low, self.x_high)
        y = _share(point[1], self.y_low, self.y_high)
        return round(x * (2 * self.columns - 1)), round((1 - y) * (4 * self.rows - 1))

    def cell(self, point: Point) -> tuple[int, int]:
        """Column and row of the character."""
        x, y = self.place(point)
        return x // 2, y // 4

    def connect(self, first: Point, second: Point) -> None:
        """A straight line of dots."""
        (x0, y0), (x1, y1) = self.place(first), self.place(second)
        num_dots = max(abs(x1 - x0), abs(y1 - y0), 1)
        for i in range(num_dots + 1):
            x, y = x0 + round((x1 - x0) * i / num_dots), y0 + round((y1 - y0) * i / num_dots)
            self.bits[y // 4][x // 2] |= _BITS[y % 4][x % 2]


def _share(value: float, low: float, high: float) -> float:
    return 0.0 if low == high else (value / 2 - low / 2) / (high / 2 - low / 2)
