"""Whatever a tracker does in its thread, the run goes on, metrics.jsonl is whole, and one sentence says it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from whet.tracking import TrackedRun, TrackerGroup, trackers
from whet.tracking.background import BackgroundTracker, TrackerLostError
from whet.types import StepRecord


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step, epoch=0.1, loss=1.0, lr=1e-4, grad_norm=0.5, num_tokens=64, num_taught=32, seconds=0.1,
        tokens_per_second=640.0, batch_hash="0" * 16,
    )  # fmt: skip


class Odd:
    """A tracker that waits for `gate` in the method `hangs_at`, and raises `error` at step `raises_at`."""

    def __init__(self, *, hangs_at: str = "", raises_at: int = 0, error: BaseException | None = None) -> None:
        self.hangs_at, self.raises_at, self.error = hangs_at, raises_at, error
        self.gate = threading.Event()
        self.heard: list[object] = []

    def _hear(self, method: str, what: object) -> None:
        if method == self.hangs_at:
            self.gate.wait()
        if self.error is not None and what == self.raises_at:
            raise self.error
        self.heard.append(what)

    def start(self, run: TrackedRun) -> None:
        self._hear("start", "start")

    def log_step(self, record: StepRecord) -> None:
        self._hear("log_step", record.step)

    def log_eval(self, step: int, metrics: object) -> None:
        self._hear("log_eval", metrics)

    def close(self) -> None:
        self._hear("close", "close")


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Builds a group with one odd tracker and short patience; what hangs is let go at the end."""
    odd: list[Odd] = []

    def build(**behaviour: object) -> tuple[TrackerGroup, Odd]:
        odd.append(Odd(**behaviour))
        impatient = partial(BackgroundTracker, start_seconds=0.1, flush_seconds=0.1, max_waiting=5)
        monkeypatch.setattr(trackers, "BackgroundTracker", impatient)
        monkeypatch.setitem(trackers.TRACKERS, "odd", lambda: odd[-1])
        return TrackerGroup(["odd"]), odd[-1]

    yield build
    for each in odd:
        each.gate.set()


def drive(group: TrackerGroup, folder: Path, num_steps: int) -> list[dict[str, object]]:
    group.start(TrackedRun(name="demo", folder=folder))
    for step in range(1, num_steps + 1):
        group.log_step(record(step))
    group.close()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps_of(lines: list[dict[str, object]]) -> list[object]:
    return [line["step"] for line in lines if line["kind"] == "step"]


@pytest.mark.parametrize("hangs_at", ["start", "log_step", "close"])
def test_a_tracker_that_hangs_for_ever_is_left_at_the_end_with_one_warning(tmp_path, caplog, group, hangs_at):
    with caplog.at_level(logging.WARNING):
        lines = drive(group(hangs_at=hangs_at)[0], tmp_path, 3)
    assert steps_of(lines) == [1, 2, 3]
    (warning,) = caplog.messages
    assert "tracker odd is switched off: it did not take everything within 0.1 s" in warning
    assert [line["text"] for line in lines if line["kind"] == "event"] == [warning]


def test_the_queue_of_a_tracker_that_hangs_is_bounded(tmp_path, caplog, group):
    with caplog.at_level(logging.WARNING):
        lines = drive(group(hangs_at="log_step")[0], tmp_path, 50)
    assert steps_of(lines) == list(range(1, 51))
    assert caplog.messages == ["tracker odd is switched off: 5 calls wait for it; metrics.jsonl is complete"]


@pytest.mark.parametrize("error", [RuntimeError("odd"), KeyError("x"), SystemExit(3), OSError(28, "No space left")])
def test_whatever_a_tracker_raises_at_the_third_step_is_one_warning(tmp_path, caplog, group, error):
    with caplog.at_level(logging.WARNING):
        lines = drive(group(raises_at=3, error=error)[0], tmp_path, 5)
    assert steps_of(lines) == [1, 2, 3, 4, 5]
    (warning,) = caplog.messages
    assert (str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}") in warning


def test_a_slow_tracker_gets_everything_in_order_before_the_end(tmp_path):
    slow = Odd(hangs_at="log_step")
    tracker = BackgroundTracker(slow)
    tracker.start(TrackedRun(name="demo", folder=tmp_path))
    measured = {"loss": 2.0}
    for step in range(1, 6):
        tracker.log_step(record(step))
    tracker.log_eval(5, measured)
    measured["loss"] = 9.0
    threading.Timer(0.1, slow.gate.set).start()
    tracker.close()
    assert slow.heard == ["start", 1, 2, 3, 4, 5, {"loss": 2.0}, "close"]


def test_a_start_that_fails_is_told_by_the_start(tmp_path):
    tracker = BackgroundTracker(Odd(raises_at="start", error=ImportError("not installed")))
    with pytest.raises(TrackerLostError, match="not installed"):
        tracker.start(TrackedRun(name="demo", folder=tmp_path))


def test_the_thread_that_trains_spends_next_to_nothing_on_a_tracker(tmp_path, group):
    """Processor time, which other processes do not change: below 1 % of a step of 20 ms."""
    stuck = Odd(hangs_at="start")
    tracker = BackgroundTracker(stuck, start_seconds=0.0)
    tracker.start(TrackedRun(name="demo", folder=tmp_path))
    before = time.thread_time()
    for step in range(2000):
        tracker.log_step(record(step))
    seconds_per_call = (time.thread_time() - before) / 2000
    stuck.gate.set()
    assert seconds_per_call < 2e-4
