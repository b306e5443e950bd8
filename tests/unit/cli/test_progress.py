import io

import pytest

from whet.cli import progress
from whet.cli.progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_a_terminal_sees_one_line_that_is_gone_at_the_end_and_a_file_nothing(monkeypatch, stream):
    monkeypatch.setattr(progress.sys, "stderr", stream)
    clock = iter(range(1, 100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with ProgressLine() as line:
        line.tell("sums: base", 1, 10)
        line.tell("s", 2, 10)
    if isinstance(stream, Terminal):
        # the shorter text covers the longer one
        assert stream.getvalue() == "\rsums: base: 1 of 10\rs: 2 of 10         \r          \r"
    else:
        assert stream.getvalue() == ""


def test_it_is_written_ten_times_a_second_at_most(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", stream)
    now = [10.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    line = ProgressLine()
    for number in range(100):
        now[0] += 0.01
        line.tell("rows", number, 1000)
    assert 9 <= stream.getvalue().count("\r") <= 11
