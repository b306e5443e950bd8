from __future__ import annotations

import time

import pytest
import torch

from whet.train.laps import GpuClock, Laps
from whet.types import PARTS_OF_STEP


class FakeClock:
    """A GPU that is told how far it is: marks are numbers of its own time, passed once `reached` is beyond them."""

    def __init__(self, *marks):
        self._marks = iter(marks)
        self.reached = 0.0

    def mark(self):
        return next(self._marks)

    def has_passed(self, mark):
        return mark <= self.reached

    def seconds(self, start, end):
        return end - start


def laps_of(clock):
    laps = Laps()
    laps._clock = clock
    return laps


def run(laps, *names):
    for name in names:
        with laps(name):
            pass


def test_laps_of_one_name_add_up_and_the_parts_never_exceed_the_whole():
    laps, started = Laps(), time.monotonic()
    for _ in range(2):
        with laps("forward"):
            time.sleep(0.02)
        with laps("backward"):
            time.sleep(0.01)
    times = laps.take(time.monotonic() - started)
    assert 0.04 <= times["forward_seconds"] < 0.2 and 0.02 <= times["backward_seconds"] < 0.2
    assert sum(times[f"{part}_seconds"] for part in PARTS_OF_STEP) <= times["seconds"]
    assert set(times) == {"seconds", *(f"{part}_seconds" for part in PARTS_OF_STEP)}


def test_what_is_taken_is_gone():
    laps = laps_of(FakeClock(0, 1, 2, 4))
    laps._clock.reached = 10
    run(laps, "data")
    assert laps.take(5.0)["data_seconds"] == 1
    run(laps, "data")
    assert laps.take(5.0)["data_seconds"] == 2


def test_the_time_a_checkpoint_held_the_step_up_counts_as_the_steps():
    laps = laps_of(FakeClock(0, 3, 4, 6))
    laps._clock.reached = 10
    run(laps, "save", "forward")
    times = laps.take(2.5)
    assert times["seconds"] == 5.5 and times["save_seconds"] == 3 and times["forward_seconds"] == 2


def test_a_lap_that_the_gpu_has_not_ended_comes_with_the_next_line():
    laps = laps_of(FakeClock(0, 1, 1, 3))
    laps._clock.reached = 2
    run(laps, "forward", "optimizer")
    times = laps.take(5.0)
    assert times["forward_seconds"] == 1 and times["optimizer_seconds"] == 0
    laps._clock.reached = 3
    assert laps.take(5.0)["optimizer_seconds"] == 2


def test_laps_longer_than_the_hosts_seconds_are_shortened_alike():
    laps = laps_of(FakeClock(0, 3, 3, 4))
    laps._clock.reached = 10
    run(laps, "backward", "forward")
    times = laps.take(2.0)
    assert times["backward_seconds"] == pytest.approx(1.5) and times["forward_seconds"] == pytest.approx(0.5)


def test_a_gpu_is_timed_by_events_and_never_waited_for(monkeypatch):
    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.is_recorded = True

        def query(self):
            return self.is_recorded

        def elapsed_time(self, end):
            return 250.0  # milliseconds

    def wait():
        raise AssertionError("the GPU was waited for")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    laps = Laps(torch.device("cuda"))
    assert isinstance(laps._clock, GpuClock)
    run(laps, "backward")
    assert laps.take(1.0)["backward_seconds"] == 0.25
