"""What a tracker is: four methods, called in this order and by one thread; for all but metrics.jsonl not the one that
trains (background.py), so that they may wait for disks and servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from whet.types import StepRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """The run that is tracked."""

    name: str
    folder: Path
    """run folder; a tracker writes inside it only"""
    resume_step: int = 0
    """Last step that this run has behind it; 0 for a new run. What was tracked of later steps is void."""
    project: str = "whet"
    tags: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    """the recipe as plain values, without secrets"""
    is_online: bool = False
    """whether anything may leave this machine"""


class Tracker(Protocol):
    """Receives what the run measures. What it raises switches it off; the run goes on."""

    def start(self, run: TrackedRun) -> None:
        """Open files or connections; on resume, void everything after `run.resume_step`."""

    def log_step(self, record: StepRecord) -> None:
        """One optimizer step; called once per step, in order."""

    def log_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        """What was measured on held-out rows after `step`, by name without `eval/`, and `seconds`; once per step."""

    def close(self) -> None:
        """Write out what is held back."""
