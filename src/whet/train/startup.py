"""How long it takes until the first step is done, phase by phase; said once and kept for summary.json."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from whet.train.callbacks import QuietCallback, Requests
from whet.types import StepRecord

if TYPE_CHECKING:
    from whet.train.loop import Training


class Startup(QuietCallback):
    """Phases follow one another without a gap: each ends where `reached` names it, the last one with the first step."""

    name = "startup"

    def __init__(self, say: Callable[[str], None], *, started: float | None) -> None:
        """`started`: when the process began, in seconds of the monotonic clock; None: what came before is not known."""
        self.seconds: dict[str, float] = {}
        self._say = say
        self._last = time.monotonic()
        if started is not None:
            self.seconds["imports"] = self._last - started

    def reached(self, phase: str) -> None:
        """The end of `phase`, which began where the one before it ended."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def on_start(self, run: Training, step: int) -> None:
        self.reached("plan")

    def after_step(self, record: StepRecord) -> Requests:
        if "first step" not in self.seconds:
            self.reached("first step")
            self._say(sentence(self.seconds))
        return Requests()


def sentence(seconds: Mapping[str, float]) -> str:
    """`ready in 6.1 s: imports 2.9, rows 0.4, model 1.8, adapter 0.6, plan 0.1, first step 1.1`."""
    phases = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    return f"ready in {sum(seconds.values()):.1f} s: {phases}"


def process_start() -> float | None:
    """When this process began, by the monotonic clock; None where the kernel does not tell.

    A process that replaced itself (exec) began where the first one did.
    """
    try:
        # the name in parentheses may hold anything; starttime is the 22nd field, in ticks since the machine started
        ticks = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return None
    return time.monotonic() - age
