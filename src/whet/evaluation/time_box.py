"""How many rows to answer next: a fixed portion, or as many as the measured speed says will fit before a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_ROWS = 8
"""answered before a speed is known, and the fewest that are worth a portion"""


class TimeBox:
    """A deadline for one model's answers to one set. Without one, everything fits."""

    def __init__(self, deadline: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._deadline, self._clock = deadline, clock
        self._seconds_per_row: float | None = None
        self._last_rows = 0

    def next_rows(self, num_left: int, portion: int) -> int:
        """Rows of the next portion, at most `portion`; 0 when no more fit. The first few are always answered."""
        if self._deadline is None:
            return min(portion, num_left)
        if self._seconds_per_row is None:
            return min(FIRST_ROWS, portion, num_left)
        num_fitting = int((self._deadline - self._clock()) / self._seconds_per_row)
        num_rows = min(portion, num_left, 2 * self._last_rows, max(0, num_fitting))
        return num_rows if num_rows >= min(FIRST_ROWS, num_left) else 0

    def measured(self, num_rows: int, seconds: float) -> None:
        """Tell how long a portion took."""
        self._seconds_per_row, self._last_rows = max(seconds, 1e-9) / num_rows, num_rows
