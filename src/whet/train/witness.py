"""What the step after each checkpoint gave, in RUN/witness.jsonl: `--resume --verify` makes it again and compares.

    {"kind": "session", "step": 0, "facts": {"torch": "2.13.0", "threads": 1, ...}}
    {"kind": "step", "step": 5, "batch_hash": ..., "lr": ..., "loss": ..., "grad_norm": ..., "rows": ...,
     "weights": [...], "moments": [...]}

A session is one process's work on the run. A line that could not be written costs a proof later, not the run now.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.json_text import objects_of_lines
from whet.parallel.env import Env
from whet.parallel.reduce import gather_texts
from whet.train.callbacks import QuietCallback, Requests
from whet.train.machine_facts import facts_of
from whet.train.preflight import environment
from whet.train.step_bits import StepBits, bits_from, bits_of_record, bits_of_rows, bits_of_state
from whet.types import StepRecord

if TYPE_CHECKING:
    from whet.train.loop import Training

FILE_NAME = "witness.jsonl"
_log = logging.getLogger(__name__)


class Witness(QuietCallback):
    """Notes the step after each checkpoint; must come before the callbacks that change weights."""

    name = "witness"

    def __init__(self, run_folder: Path, env: Env) -> None:
        self._path, self._is_main = run_folder / FILE_NAME, env.is_main
        self._run: Training | None = None
        self._first = 0

    def on_start(self, run: Training, step: int) -> None:
        self._run, self._first = run, step
        self._append({"kind": "session", "step": step, "facts": facts_now(run)})

    def after_step(self, record: StepRecord) -> Requests:
        run = self._run
        assert run is not None, "on_start comes first"
        # a continued run begins right behind a checkpoint
        if record.step - 1 in (run.saves.begun, self._first or None):
            self._append({"kind": "step", **asdict(witnessed(run, record))})
        return Requests()

    def _append(self, line: Mapping[str, Any]) -> None:
        if not self._is_main:
            return
        try:
            with self._path.open("ab") as file:
                # a crash may have left a part of a line
                file.write(b"\n" * (file.tell() > 0) + json.dumps(line).encode("ascii"))
        except OSError as error:
            _log.warning("%s: not written (%s); --verify will know less", self._path, error.strerror)


def facts_now(run: Training) -> dict[str, Any]:
    """What the last bits of this run depend on, here and now."""
    return facts_of(environment(run.plan, run.device), asdict(run.plan))


def witnessed(run: Training, record: StepRecord) -> StepBits:
    """All that can be compared of the step just made, right after its update; all ranks call it."""
    weights, moments = zip(*(text.split() for text in gather_texts(" ".join(bits_of_state(run)))), strict=True)
    rows = bits_of_rows(run, record.step - 1) if run.env.is_main else ""
    return replace(bits_of_record(record), rows=rows, weights=weights, moments=moments)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSteps:
    """What is known of steps that a run has made."""

    steps: Mapping[int, StepBits] = field(default_factory=dict)
    """by 1-based step; the last word on each"""
    sessions: Sequence[tuple[int, Mapping[str, Any]]] = ()
    """steps that were done when each began, and its facts, in the order of time"""

    def facts_of(self, step: int) -> Mapping[str, Any]:
        """What the last bits of 1-based `step` depended on, as far as it is known."""
        return next((facts for first, facts in reversed(self.sessions) if first < step), {})


def read_testimony(run_folder: Path) -> KnownSteps:
    """witness.jsonl and, of steps that are not in it, metrics.jsonl; lines that cannot be read are left out."""
    steps: dict[int, StepBits] = {}
    sessions: list[tuple[int, Mapping[str, Any]]] = []
    for line in _lines(run_folder / FILE_NAME):
        if line.get("kind") == "session" and isinstance(line.get("facts"), dict):
            first = int(line.get("step", 0))
            sessions.append((first, line["facts"]))
            # what came after the step that this session began with is made anew
            steps = {step: bits for step, bits in steps.items() if step <= first}
        elif line.get("kind") == "step" and (bits := bits_from(line)) is not None:
            steps[bits.step] = bits
    for line in _lines(run_folder / "metrics.jsonl"):
        if line.get("kind") == "step" and (bits := bits_from(line)) is not None and bits.step not in steps:
            steps[bits.step] = bits
    return KnownSteps(steps=steps, sessions=tuple(sessions))


def _lines(path: Path) -> list[dict[str, Any]]:
    return list(objects_of_lines(path.read_bytes())) if path.is_file() else []
