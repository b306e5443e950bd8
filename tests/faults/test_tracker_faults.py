"""A tracker that hangs, raises, has no disk or loses its server: the run ends as without it, and says so once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]

PROMISED = "final SHA-256 as without it, metrics.jsonl whole, one warning"
SUPPORT = Path(__file__).parents[1] / "support"
READ_BACK = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
print(json.dumps([[event.step, event.value] for event in events.Scalars("train/loss")]))
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")


@pytest.fixture
def tracked(workplace):
    """The workplace with the one tracker that there is switched on, and the odd ones at hand."""
    workplace.write_recipe(tracking=["tensorboard"])
    folders = [str(SUPPORT), workplace.environment.get("PYTHONPATH", "")]
    workplace.environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    return workplace


@pytest.fixture(autouse=True)
def patience(monkeypatch) -> None:
    monkeypatch.setattr("workplace.TIMEOUT_SECONDS", 600)


def train_with(workplace, kind: str, **environment: str) -> str:
    """The run to its end with an odd tracker; what it said."""
    workplace.environment |= environment
    code, said = workplace.run("train", str(workplace.recipe), program=("-m", "odd_trackers", kind))
    assert code == 0, said
    return said


def is_untouched(workplace, uninterrupted, said: str) -> bool:
    """Whether the run is the one that nothing disturbed, and spoke once of its tracker."""
    is_same = workplace.hashes() == uninterrupted.hashes and workplace.trajectory() == uninterrupted.trajectory
    return is_same and said.count("tracker tensorboard is switched off") == 1


def test_a_tracker_that_hangs_for_ever_is_left_at_the_end(tracked, uninterrupted, outcome):
    said = train_with(tracked, "hang")
    held = is_untouched(tracked, uninterrupted, said) and "did not take everything within 8 s" in said
    outcome(fault="tracker hangs for ever", group="environment", tries=1, held=int(held), note=PROMISED)
    assert held, said


def test_a_tracker_that_raises_something_of_its_own_is_switched_off(tracked, uninterrupted, outcome):
    said = train_with(tracked, "raise")
    held = is_untouched(tracked, uninterrupted, said) and "OddError: the server says no" in said
    outcome(fault="tracker raises at its third step", group="environment", tries=1, held=int(held), note=PROMISED)
    assert held and "Traceback" not in said, said


class Collector(ThreadingHTTPServer):
    """Takes two steps; at the third it falls silent, as a dead server behind a firewall does, or dies."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *, is_silent: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.is_silent = is_silent
        self.num_steps = 0

    def handle_error(self, *args: object) -> None:
        """Its own end is part of the test."""


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.num_steps += 1
        if self.server.num_steps >= 3:
            if self.server.is_silent:
                threading.Event().wait(600)
            self.server.socket.close()
            return
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_server_that_dies_in_the_middle_of_a_run(tracked, uninterrupted, outcome, is_silent):
    server = Collector(is_silent=is_silent)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    said = train_with(tracked, "http", TRACKER_URL=f"http://127.0.0.1:{server.server_port}/steps")
    server.server_close()
    held = is_untouched(tracked, uninterrupted, said) and server.num_steps >= 3
    fault = f"tracker's server {'falls silent' if is_silent else 'is killed'} in the middle of the run"
    outcome(fault=fault, group="environment", tries=1, held=int(held), note=PROMISED)
    assert held, said


@needs_root
def test_the_disk_of_a_tracker_that_fills_up(tracked, uninterrupted, outcome):
    """tensorboard's own writer, whose folder lies on a disk of one page."""
    logs = tracked.folder / "run" / "logs"
    logs.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(logs)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs root to mount a small disk")
    try:
        said = tracked.train()
    finally:
        subprocess.run(["umount", "-l", str(logs)], check=True)
    held = is_untouched(tracked, uninterrupted, said) and "No space left on device" in said
    outcome(fault="tracker's disk is full", group="environment", tries=1, held=int(held), note=PROMISED)
    assert held, said


def test_after_a_kill_and_a_resume_tensorboard_has_every_step_once(tracked, uninterrupted, outcome):
    tracked.kill_at(3)
    tracked.kill_at(6)
    tracked.train()
    logs = str(tracked.folder / "run" / "logs")
    read = subprocess.run(
        [sys.executable, "-c", READ_BACK, logs], capture_output=True, text=True, check=True, env=tracked.environment
    )
    found = json.loads(read.stdout)
    held = [step for step, _ in found] == [step[0] for step in uninterrupted.trajectory]
    held = held and [loss for _, loss in found] == pytest.approx([step[1] for step in uninterrupted.trajectory])
    held = held and tracked.hashes() == uninterrupted.hashes
    outcome(
        fault="killed twice with a tracker on", group="environment", tries=1, held=int(held),
        note="every step once in metrics.jsonl and in tensorboard's files",
    )  # fmt: skip
    assert held, found
