"""Lines of metrics.jsonl -> points by step. A step that is logged again replaces what was logged of it before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from whet.recipe.measured import shown_once

_NOT_PLOTTED = ("step", "epoch", "seconds")
_OF_MACHINE = ("memory", "gpu_", "utilization", "utilisation", "mfu")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPoint:
    """The plotted numbers of one optimizer step; None where the log holds no finite number."""

    step: int
    loss: float | None
    lr: float | None
    grad_norm: float | None
    tokens_per_second: float | None
    seconds: float | None = None
    machine: Mapping[str, float] = field(default_factory=dict)
    """memory and utilisation, by the name they are logged under; empty where nothing of it is logged"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalPoint:
    """What was measured in training after `step`: numbers by name."""

    step: int
    values: dict[str, float]
    seconds: float = 0.0
    """what measuring took"""

    @property
    def loss(self) -> float | None:
        """Of the validation rows, in nats per taught token."""
        return self.values.get("loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something out of the ordinary, as a sentence."""

    step: int
    text: str


class MetricsLog:
    """What a log holds so far; lines are added as they are read, in any number of portions."""

    def __init__(self) -> None:
        self._steps: dict[int, StepPoint] = {}
        self._evals: dict[int, EvalPoint] = {}
        self.events: list[Event] = []

    def add(self, line: Mapping[str, Any]) -> None:
        """One line; what is no step, evaluation or event changes nothing."""
        step, kind = line.get("step"), line.get("kind")
        if not isinstance(step, int) or isinstance(step, bool) or abs(step) > 2**53:
            return
        if kind == "step":
            self._steps[step] = _step_point(step, line)
        elif kind == "eval":
            # validation rows and evaluation sets are logged in lines of their own
            before = self._evals.get(step, EvalPoint(step=step, values={}))
            seconds = before.seconds + (finite(line.get("seconds")) or 0.0)
            self._evals[step] = EvalPoint(step=step, values=before.values | _plotted(line), seconds=seconds)
        elif kind == "event":
            self.events.append(Event(step=step, text=str(line.get("text", ""))))

    @property
    def steps(self) -> tuple[StepPoint, ...]:
        """By step."""
        return tuple(self._steps[step] for step in sorted(self._steps))

    @property
    def evals(self) -> tuple[EvalPoint, ...]:
        """By step."""
        return tuple(point for step in sorted(self._evals) if (point := self._evals[step]).values)


def finite(value: object) -> float | None:
    """`value` as a finite float (below 1e300 in size), or None if it is anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    # beyond this, axis arithmetic could overflow; no measured quantity is near it
    return number if abs(number) < 1e300 else None


def _step_point(step: int, line: Mapping[str, Any]) -> StepPoint:
    return StepPoint(
        step=step,
        loss=finite(line.get("loss")),
        lr=finite(line.get("lr")),
        grad_norm=finite(line.get("grad_norm")),
        tokens_per_second=finite(line.get("tokens_per_second")),
        seconds=finite(line.get("seconds")),
        machine={
            name: number
            for name, value in line.items()
            if any(word in name for word in _OF_MACHINE) and (number := finite(value)) is not None
        },
    )


def _plotted(line: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line that are measurements: not its place, its time or a count."""
    return shown_once({
        name: number
        for name, value in line.items()
        if (last := name.rsplit("/", 1)[-1]) not in _NOT_PLOTTED and not last.startswith("num_")
        if (number := finite(value)) is not None
    })  # fmt: skip
