"""`whet chat` at a terminal of its own: Ctrl-C stops an answer, Ctrl-D leaves, and nothing is lost in between."""

import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest
import tiny_runs

from whet.recipe.schema import Adapter

TIMEOUT_SECONDS = 120


class Terminal:
    """The other side of a pseudo-terminal: what a person types and sees."""

    def __init__(self, arguments, environment):
        self._own, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "whet", "chat", *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
            env={**environment, "TERM": "xterm", "COLUMNS": "80"}, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )  # fmt: skip
        os.close(theirs)
        self.seen = ""

    def type(self, text):
        os.write(self._own, text.encode())

    def wait_for(self, pattern):
        """What came since the last call up to `pattern`."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, f"{pattern!r} did not come: {self.seen[-2000:]!r}"
            if select.select([self._own], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._own, 65536).decode(errors="replace")
                except OSError:
                    assert re.search(pattern, self.seen), f"ended before {pattern!r} came: {self.seen[-2000:]!r}"
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._own)


@pytest.fixture
def terminal(tmp_path):
    base = tiny_runs.write_base(tmp_path / "base")
    run = tiny_runs.write_adapter_run(tmp_path / "run", base, Adapter(rank=4, alpha=8.0), size=0.3).folder
    environment = {**os.environ, "WHET_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    terminal = Terminal([str(run), "--against", "base", "--max-new-tokens", "200", "-v"], environment)
    yield terminal
    terminal.close()


@pytest.mark.slow
def test_a_person_asks_stops_an_answer_and_leaves(terminal):
    greeting = terminal.wait_for(r"\n> ")
    assert "tiny against base: greedy, at most 200 new tokens; it reads 256 tokens" in greeting
    terminal.type("Why?\n")
    first = terminal.wait_for(r"note: tiny: [^\r\n]* a second")
    assert "base" in first and "note: base: " in first
    terminal.wait_for(r"\n> ")
    # an answer of 200 tokens takes longer than the time until its first piece is drawn
    terminal.type("And then?\n")
    terminal.wait_for(r"base[^\r\n]*tiny")
    terminal.type("\x03")
    stopped = terminal.wait_for(r"\n> ")
    assert "(stopped)" in stopped and "Traceback" not in stopped
    time.sleep(0.5)  # Python notices a Ctrl-C in the microseconds between prompt and waiting only at the next key
    terminal.type("\x03")
    assert "Ctrl-D or /exit leaves" in terminal.wait_for(r"\n> ")
    terminal.type("\x04")
    assert terminal.process.wait(timeout=TIMEOUT_SECONDS) == 0
