"""metrics.jsonl: one flushed JSON line per step, evaluation and event. Always on; the report reads nothing else.

Append-only, but for a resume at step k: lines of later steps and unreadable lines are taken out first (as one atomic
replacement), so that every step stands in the file once. A number that is not finite is written as null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from io import BufferedWriter
from pathlib import Path

from whet import atomic
from whet.tracking.protocol import TrackedRun
from whet.types import StepRecord

FILE_NAME = "metrics.jsonl"


class JsonlTracker:
    """Tracker that appends to `<run folder>/metrics.jsonl`."""

    def __init__(self) -> None:
        self._file: BufferedWriter | None = None

    def start(self, run: TrackedRun) -> None:
        """Open the file for appending after taking out what `run.resume_step` makes void."""
        path = run.folder / FILE_NAME
        run.folder.mkdir(parents=True, exist_ok=True)
        num_later, num_unreadable = _take_back(path, run.resume_step)
        self._file = path.open("ab")
        if num_later or num_unreadable:
            self.log_event(
                run.resume_step,
                f"resumed after step {run.resume_step}: took out {num_later} lines of later steps and "
                f"{num_unreadable} unreadable lines",
            )

    def log_step(self, record: StepRecord) -> None:
        """Append `{"kind": "step", ...}` with the fields of StepRecord."""
        self._append({"kind": "step", **asdict(record)})

    def log_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append `{"kind": "eval", "step": step, ...}`."""
        self._append({"kind": "eval", "step": step, **metrics})

    def log_event(self, step: int, text: str) -> None:
        """Append `{"kind": "event", ...}`: a sentence about something out of the ordinary."""
        self._append({"kind": "event", "step": step, "text": text})

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, line: dict[str, object]) -> None:
        assert self._file is not None, "start() comes first"
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in line.items()
        }
        self._file.write(json.dumps(finite, allow_nan=False).encode("ascii") + b"\n")
        self._file.flush()


def _take_back(path: Path, resume_step: int) -> tuple[int, int]:
    """Remove lines after `resume_step` and unreadable ones; returns how many of each were there."""
    if not path.is_file():
        return 0, 0
    content = path.read_bytes()
    num_later = num_unreadable = 0
    kept = []
    for line in content.splitlines():
        step = _step_of(line)
        if step is None:
            num_unreadable += 1
        elif step > resume_step:
            num_later += 1
        else:
            kept.append(line + b"\n")
    whole = b"".join(kept)
    if whole != content:
        atomic.write_bytes(path, whole)
    return num_later, num_unreadable


def _step_of(line: bytes) -> int | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = value.get("step") if isinstance(value, dict) else None
    return step if isinstance(step, int) and not isinstance(step, bool) else None
