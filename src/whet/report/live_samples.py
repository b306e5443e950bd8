"""Lines of samples.jsonl -> what the model answered to the same rows, evaluation after evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FILE_NAME = "samples.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSample:
    """One answer after `step`."""

    step: int
    set: str
    id: str
    prompt: str
    text: str
    golds: tuple[str, ...]
    is_correct: bool
    was_cut: bool
    """stopped by the length limit"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSamples:
    """All answers to one row, by step. Invariant: there is at least one."""

    answers: tuple[LiveSample, ...]

    @property
    def last(self) -> LiveSample:
        return self.answers[-1]


def parse_sample(line: Mapping[str, Any]) -> LiveSample | None:
    """The answer of a line; None where it is none."""
    step, golds = line.get("step"), line.get("golds")
    if not isinstance(step, int) or isinstance(step, bool) or abs(step) > 2**53 or "text" not in line:
        return None
    return LiveSample(
        step=step,
        set=str(line.get("set", "")),
        id=str(line.get("id", "")),
        prompt=str(line.get("prompt", "")),
        text=str(line["text"]),
        golds=tuple(str(gold) for gold in golds) if isinstance(golds, list) else (),
        is_correct=line.get("is_correct") is True,
        was_cut=line.get("was_cut") is True,
    )


def by_row(samples: Iterable[LiveSample]) -> tuple[RowSamples, ...]:
    """Rows in the order in which they were first answered; a step that was made again counts as it was made last."""
    rows: dict[tuple[str, str], dict[int, LiveSample]] = {}
    for sample in samples:
        rows.setdefault((sample.set, sample.id), {})[sample.step] = sample
    return tuple(RowSamples(answers=tuple(found[step] for step in sorted(found))) for found in rows.values())
