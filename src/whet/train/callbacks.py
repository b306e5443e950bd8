"""Optional parts of the loop: the protocol, and the one place that calls it.

A callback never advances a random generator that training uses, is called in the order of the list, and asks for
things instead of doing them: requests travel with the next step's gradients, so all ranks agree on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from whet.train.incidents import Incident
from whet.types import StepRecord

if TYPE_CHECKING:
    from whet.train.loop import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What callbacks ask of the loop; honoured by all ranks at the end of the next step."""

    stop: bool = False
    save: bool = False
    evaluate: bool = False
    is_writing: bool = False
    """not of callbacks: this rank is still at work on the checkpoint in flight"""

    def __or__(self, other: Requests) -> Requests:
        return Requests(
            stop=self.stop or other.stop,
            save=self.save or other.save,
            evaluate=self.evaluate or other.evaluate,
            is_writing=self.is_writing or other.is_writing,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRecord:
    """What was measured on held-out rows after one step. Invariant: the same on all ranks."""

    step: int
    metrics: dict[str, float]
    """by name, as `recipe.measured` has them; of the validation rows also `num_taught`"""
    seconds: float
    """apart from the seconds of steps"""


class Callback(Protocol):
    """What the loop tells; `state` must be plain JSON and goes into every checkpoint.

    `on_checkpoint_saved` comes when the checkpoint is whole on the disk: some steps after the one that it is of, how
    many depends on the disk, on all ranks after the same step. No weight may depend on when it comes.
    """

    name: str
    changes_weights: bool
    """whether `after_step` does; such a callback hears of a step again that is made again after the run went back"""

    def on_start(self, run: Training, step: int) -> None: ...
    def after_step(self, record: StepRecord) -> Requests: ...
    def on_event(self, step: int, text: str) -> None: ...
    def on_incident(self, incident: Incident) -> None: ...
    def on_evaluated(self, record: EvalRecord) -> None: ...
    def on_checkpoint_saved(self, step: int, folder: Path) -> None: ...
    def on_error(self, error: BaseException) -> None: ...
    def on_stop(self, step: int) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


class QuietCallback:
    """A callback that does nothing; the others override what they need."""

    name = "quiet"
    changes_weights = False

    def on_start(self, run: Training, step: int) -> None: ...
    def after_step(self, record: StepRecord) -> Requests:
        return Requests()

    def on_event(self, step: int, text: str) -> None: ...
    def on_incident(self, incident: Incident) -> None: ...
    def on_evaluated(self, record: EvalRecord) -> None: ...
    def on_checkpoint_saved(self, step: int, folder: Path) -> None: ...
    def on_error(self, error: BaseException) -> None: ...
    def on_stop(self, step: int) -> None: ...
    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None: ...


class Callbacks:
    """All callbacks of a run, called in order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._all = tuple(callbacks)

    def on_start(self, run: Training, step: int) -> None:
        """`run` is whole now: its plan is decided, a checkpoint's state is back in its tensors."""
        for c in self._all:
            c.on_start(run, step)

    def after_step(self, record: StepRecord) -> Requests:
        requests = Requests()
        for c in self._all:
            requests |= c.after_step(record)
        return requests

    def step_again(self, record: StepRecord) -> None:
        """A step that was told before is made again, to the same bits: only what changes weights has a part in it."""
        for c in self._all:
            if c.changes_weights:
                c.after_step(record)

    def on_event(self, step: int, text: str) -> None:
        """A callback did something worth a line in metrics.jsonl; the others are told."""
        for c in self._all:
            c.on_event(step, text)

    def on_incident(self, incident: Incident) -> None:
        """The run has mended something by itself; all ranks tell theirs, of what all had a part in."""
        for c in self._all:
            c.on_incident(incident)

    def on_evaluated(self, record: EvalRecord) -> None:
        for c in self._all:
            c.on_evaluated(record)

    def on_checkpoint_saved(self, step: int, folder: Path) -> None:
        for c in self._all:
            c.on_checkpoint_saved(step, folder)

    def on_error(self, error: BaseException) -> None:
        for c in self._all:
            c.on_error(error)

    def on_stop(self, step: int) -> None:
        for c in self._all:
            c.on_stop(step)

    def state(self) -> dict[str, Any]:
        return {c.name: c.state() for c in self._all}

    def load_state(self, state: dict[str, Any]) -> None:
        for c in self._all:
            c.load_state(state.get(c.name, {}))
