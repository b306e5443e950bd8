"""Standard input, output and error when nobody is there: closed before the start, or gone in the middle."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


def open_standard_streams() -> None:
    """Open the null device where one of the three is closed.

    Otherwise the next file that is opened takes its number, and what a library prints lands in a checkpoint.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # the lowest free number is this one; children get it too
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()


def _nowhere() -> TextIO:
    return io.TextIOWrapper(io.FileIO(os.devnull, "w"), encoding="utf-8")


def flush_or_leave(stream: TextIO) -> None:
    """Flush a standard stream; where nobody takes it, what is left in it must not spoil the exit code."""
    try:
        stream.flush()
    except OSError:
        point_at_nothing(stream.fileno())


def point_at_nothing(descriptor: int) -> None:
    """The bytes that could not be written are still buffered and would fail again when Python exits."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


class Lasting:
    """Standard error for what draws on a terminal: when the terminal is gone, the drawing goes nowhere."""

    def write(self, text: str) -> int:
        try:
            return sys.stderr.write(text)
        except OSError:
            point_at_nothing(sys.stderr.fileno())
            return len(text)

    def flush(self) -> None:
        flush_or_leave(sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)
