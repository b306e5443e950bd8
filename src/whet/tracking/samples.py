"""samples.jsonl: the first answers of each evaluation set that the model answers while it trains, for people.

    {"step": 40, "set": "gsm8k", "id": "test-0", "prompt": "...", "text": "...", "golds": ["18"], "is_correct": true,
     "was_cut": false}

The same rows at every evaluation, so that they can be read beside each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from whet import atomic
from whet.tracking.jsonl import take_back

FILE_NAME = "samples.jsonl"
NUM_ROWS = 4
"""of each set"""
_MAX_CHARACTERS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One answer. Texts are cut."""

    set: str
    id: str
    """of the row"""
    prompt: str
    """the last thing that was asked"""
    text: str
    golds: tuple[str, ...]
    is_correct: bool
    was_cut: bool
    """stopped by the length limit"""


def begin(run_folder: Path, resume_step: int) -> None:
    """Take out what was answered after `resume_step`: those steps are made again."""
    take_back(run_folder / FILE_NAME, resume_step)


def append(run_folder: Path, step: int, answers: Iterable[Shown]) -> None:
    """One line for each, on the disk when this returns; StorageError when the disk refuses."""
    lines = "".join(json.dumps({"step": step, **_cut(asdict(answer))}) + "\n" for answer in answers)
    if lines:
        atomic.append_bytes(run_folder / FILE_NAME, lines.encode("ascii"))


def _cut(document: dict[str, object]) -> dict[str, object]:
    return {name: each[:_MAX_CHARACTERS] if isinstance(each, str) else each for name, each in document.items()}
