"""A standard stream that is closed or gone harms neither files nor the exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from whet import streams

PROGRAM = """
import os, sys
from whet.streams import open_standard_streams
open_standard_streams()
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(1, b"printed by a library")
os.write(2, b"and this")
print("by Python", flush=True)
print("too", file=sys.stderr, flush=True)
os.write(descriptor, b"weights")
"""


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path):
    path = tmp_path / "weights"
    closed = 'exec "$0" -c "$1" "$2" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", closed, sys.executable, PROGRAM, str(path)])
    assert done.returncode == 0
    assert path.read_bytes() == b"weights"


class Gone:
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")

    def fileno(self) -> int:
        return 99

    def isatty(self) -> bool:
        return True


def test_drawing_on_a_terminal_that_went_away_goes_nowhere(monkeypatch: pytest.MonkeyPatch):
    pointed: list[int] = []
    monkeypatch.setattr(streams, "point_at_nothing", pointed.append)
    monkeypatch.setattr(sys, "stderr", Gone())
    lasting = streams.Lasting()
    assert lasting.write("bar") == 3 and pointed == [99]
    assert lasting.isatty()
