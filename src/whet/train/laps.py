"""Where the time of a step goes: laps by name, on the host's clock or by marks in the GPU's own stream.

    with laps("forward"):
        ...

Laps follow one another and do not nest. On a GPU a lap is the time between two events of the stream, so nothing waits
for the GPU in order to be measured: `take` reads the laps whose end the GPU has passed, the others come with the next.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch

from whet.types import PARTS_OF_STEP


class Clock(Protocol):
    """Makes marks and tells the time between two of them."""

    def mark(self) -> Any: ...
    def has_passed(self, mark: Any) -> bool: ...
    def seconds(self, start: Any, end: Any) -> float: ...


class HostClock:
    """Marks are seconds of the monotonic clock."""

    def mark(self) -> float:
        return time.monotonic()

    def has_passed(self, mark: float) -> bool:
        return True

    def seconds(self, start: float, end: float) -> float:
        return end - start


class GpuClock:
    """Marks are events in the present stream of the GPU."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def has_passed(self, mark: torch.cuda.Event) -> bool:
        return bool(mark.query())

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end) / 1000


class Laps:
    """Collects laps until they are taken."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._clock: Clock = GpuClock() if device is not None and device.type == "cuda" else HostClock()
        self._laps: list[tuple[str, Any, Any]] = []
        self._name = ""
        self._start: Any = None

    def __call__(self, name: str) -> Laps:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._start = self._clock.mark()

    def __exit__(self, *_: object) -> None:
        self._laps.append((self._name, self._start, self._clock.mark()))
        self._name = ""

    @property
    def now(self) -> str:
        """The lap that is being run, for other threads to read; empty between laps."""
        return self._name

    def add(self, others: Laps, *, share: float) -> None:
        """The laps of a thread that works beside others on the host: so much of each counts as time of the step."""
        for name, start, end in others._laps:
            self._laps.append((name, start, start + share * (end - start)))

    def take(self, step_seconds: float) -> dict[str, float]:
        """`seconds` and `<part>_seconds` for the line of a step that took `step_seconds` by the host's clock.

        What a checkpoint held up before the step counts as its time too. The GPU works beside the host, so its laps
        may add up to more than the host's seconds; then all are shortened alike.
        """
        parts = dict.fromkeys(PARTS_OF_STEP, 0.0)
        waiting = []
        for name, start, end in self._laps:
            if self._clock.has_passed(end):
                parts[name] += self._clock.seconds(start, end)
            else:
                waiting.append((name, start, end))
        self._laps = waiting
        seconds = step_seconds + parts["save"]
        share = min(1.0, seconds / total) if (total := sum(parts.values())) > 0 else 1.0
        return {"seconds": seconds} | {f"{name}_seconds": value * share for name, value in parts.items()}
