"""Where this rank is: written by the thread that works, read by the thread that tells the others."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from whet.parallel.roll import Note


@dataclass(frozen=True, slots=True)
class _Visit:
    """The last collective; replaced as a whole, so that a reader never sees half of one."""

    name: str = ""
    number: int = 0
    is_inside: bool = False
    is_patient: bool = False
    entered: float = 0.0
    """by the monotonic clock"""


class Presence:
    """This rank's own account."""

    def __init__(self) -> None:
        self.step = 0
        """1-based optimizer step at work; 0 outside the steps"""
        self.phase: Callable[[], str] = lambda: "start-up"
        """says what is being done"""
        self._visit = _Visit(entered=time.monotonic())

    def enter(self, name: str, *, is_patient: bool = False) -> None:
        """A collective begins."""
        self._visit = _Visit(self._of_step(name), self._visit.number + 1, True, is_patient, time.monotonic())

    def come_back(self) -> None:
        """Wait for what the last collective gives."""
        at = self._visit
        self._visit = _Visit(at.name, at.number, True, at.is_patient, at.entered)

    def leave(self) -> None:
        """It is over, or a GPU has it in its queue."""
        at = self._visit
        self._visit = _Visit(at.name, at.number, False, at.is_patient, at.entered)

    @property
    def collective(self) -> str:
        """The last collective, `gradient all-reduce of step 12`."""
        return self._visit.name

    def note(self) -> Note:
        """What the others are told now."""
        at = self._visit
        return Note(
            host=socket.gethostname(),
            process=os.getpid(),
            doing=self._of_step(self.phase()),
            collective=at.name,
            num_entered=at.number,
            is_inside=at.is_inside,
            is_patient=at.is_patient,
            seconds_since=time.monotonic() - at.entered,
        )

    def _of_step(self, text: str) -> str:
        return f"{text} of step {self.step}" if self.step else text
