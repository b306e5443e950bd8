"""torchrun as a child: words passed on, signals passed down once, its own words kept back."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from whet.launch.local import run_child

pytestmark = pytest.mark.slow

TALKS = """
import sys
print("[rank 0] rows.jsonl:7: no answer", file=sys.stderr)
print("Traceback (most recent call last):", file=sys.stderr)
raise SystemExit(1)
"""
STOPS = """
import signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
open(sys.argv[1], "w").close()
until = time.monotonic() + 20
while not asked and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.5)
raise SystemExit(len(asked))
"""


def test_ranks_are_heard_and_torchrun_s_own_traceback_is_kept_back(capfd):
    code, own, asked = run_child([sys.executable, "-c", TALKS], os.environ)
    assert (code, asked) == (1, False)
    assert capfd.readouterr().err == "[rank 0] rows.jsonl:7: no answer\n"
    assert own == ["Traceback (most recent call last):"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_request_to_stop_reaches_torchrun_once(tmp_path, number):
    """Twice would make it leave its ranks behind."""

    def ask() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)
        time.sleep(0.1)
        os.kill(os.getpid(), number)

    threading.Thread(target=ask).start()
    before = signal.getsignal(number)
    code, _, asked = run_child([sys.executable, "-c", STOPS, str(tmp_path / "ready")], os.environ)
    assert (code, asked) == (1, True)
    assert signal.getsignal(number) is before


def test_a_closed_terminal_does_not_stop_what_nohup_started():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        hang_up = "import os, signal; os.kill(os.getppid(), signal.SIGHUP)"
        assert run_child([sys.executable, "-c", hang_up], os.environ) == (0, [], False)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_s_ctrl_c_does_not_reach_torchrun_itself():
    code, _, _ = run_child(
        [sys.executable, "-c", "import os; raise SystemExit(os.getsid(0) == os.getpid())"], os.environ
    )
    assert code == 1
