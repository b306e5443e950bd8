"""metrics.jsonl: one flushed JSON line per step, evaluation and event. Always on; the report reads nothing else.

Append-only, but for a resume at step k: lines of later steps and unreadable lines are taken out first (as one atomic
replacement), so that every step stands in the file once. A number that is not finite is written as null. Lines that the
disk does not take wait in memory for the next one, so that the file is whole again when there is room again.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from io import RawIOBase
from pathlib import Path

from whet import atomic
from whet.json_text import read_object
from whet.redact import without_secrets
from whet.tracking.protocol import TrackedRun
from whet.types import StepRecord

FILE_NAME = "metrics.jsonl"
_MAX_WAITING_BYTES = 8_000_000
"""of lines that the disk did not take, some ten thousand steps"""

_log = logging.getLogger(__name__)


class JsonlTracker:
    """Tracker that appends to `<run folder>/metrics.jsonl`."""

    def __init__(self) -> None:
        self._file: RawIOBase | None = None
        self._waiting = b""
        self._has_warned = False

    def start(self, run: TrackedRun) -> None:
        """Open the file for appending after taking out what `run.resume_step` makes void."""
        path = run.folder / FILE_NAME
        run.folder.mkdir(parents=True, exist_ok=True)
        num_later, num_unreadable = take_back(path, run.resume_step)
        # unbuffered: what the disk did not take is known, and stays here
        self._file = atomic.open_to_append(path).detach()
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
        self._append({"kind": "event", "step": step, "text": without_secrets(text)})

    def close(self) -> None:
        """Close the file; a second call does nothing. OSError where lines are lost with it."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with file:
            self._write_to(file)

    def _append(self, line: dict[str, object]) -> None:
        assert self._file is not None, "start() comes first"
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in line.items()
        }
        self._waiting += json.dumps(finite, allow_nan=False).encode("ascii") + b"\n"
        try:
            self._write_to(self._file)
        except OSError as error:
            if len(self._waiting) > _MAX_WAITING_BYTES:
                raise
            if not self._has_warned:
                self._has_warned = True
                _log.warning("%s does not grow (%s): its lines wait in memory", FILE_NAME, error.strerror)

    def _write_to(self, file: RawIOBase) -> None:
        while self._waiting:
            # a disk that is nearly full takes a part
            self._waiting = self._waiting[file.write(self._waiting) or 0 :]


def take_back(path: Path, resume_step: int) -> tuple[int, int]:
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
    step = (read_object(line) or {}).get("step")
    return step if isinstance(step, int) and not isinstance(step, bool) else None
