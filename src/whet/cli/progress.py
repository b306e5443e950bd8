"""How far something has come: one line on a terminal that is written over, and nothing anywhere else."""

from __future__ import annotations

import sys
import time

from whet.visible import spelled_out

_SECONDS_BETWEEN = 0.1


class ProgressLine:
    """Writes to standard error, so that what a command prints stays clean; use as a context manager."""

    def __init__(self) -> None:
        self._last = 0.0
        self._width = 0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self._write("")

    def tell(self, what: str, num_done: int, num_all: int) -> None:
        """Show `what: num_done of num_all`, ten times a second at most."""
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN or num_done == num_all:
            self._last = now
            self._write("" if num_done == num_all else spelled_out(f"{what}: {num_done} of {num_all}"))

    def _write(self, text: str) -> None:
        if not sys.stderr.isatty() or (not text and not self._width):
            return
        sys.stderr.write(f"\r{text.ljust(self._width)}" + ("" if text else "\r"))
        sys.stderr.flush()
        self._width = len(text)
