"""What happens to a step whose loss or gradient is not finite or a spike: the run stops, or goes back and passes over.

    snapshot before step 40 ... step 53: not finite, because of sample q ... back to step 40 ... step 53 without q ...

Off (`train.guard.max_rollbacks: 0`), a step that is not finite ends the run before its update and a spike is nobody's
concern. On, the state goes back to the last snapshot in memory, the step's offending rows are quarantined, and the run
goes on. The order of samples stays what it was: a quarantined sample is taken out of every step that it comes up in, as
if it were not there, and the loss is divided by the taught tokens of the rest; a step that loses all of its samples is
passed over without an update. As no update was ever made with what is quarantined, the steps in between come out with
the same bits as before: they are neither told nor saved again, and a run that was interrupted anywhere and continued
goes back at the same steps for the same rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from whet.atomic import write_text
from whet.data.step_rows import StepRows
from whet.errors import NonFiniteError
from whet.parallel.reduce import any_over_ranks
from whet.recipe import schema
from whet.train import nonfinite
from whet.train.callbacks import QuietCallback, Requests
from whet.train.incidents import Incident, read_incidents
from whet.train.nonfinite import NUM_SHOWN, Finding
from whet.train.prefetch import Prefetch
from whet.train.signals import StopRequest
from whet.train.snapshot import Snapshot
from whet.train.sound import first_broken
from whet.train.spikes import Window
from whet.types import StepRecord

if TYPE_CHECKING:
    from whet.train.loop import Training

KIND = "rollback"
FILE_NAME = "quarantine.jsonl"
MakeStep = Callable[..., tuple[StepRecord | None, Requests]]
"""`train.loop.train_step`"""


class _SetbackError(Exception):
    """A step that is not made; the same on all ranks."""

    def __init__(self, taken: StepRows, reason: str, kind: Literal["spike", "step", "state"]) -> None:
        """`step`: its loss or gradient is not finite; `state`: what the step before it left behind is not."""
        super().__init__(reason)
        self.taken, self.reason, self.kind = taken, reason, kind


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What is done about a setback."""

    reason: str
    sample_ids: tuple[str, ...]
    num_steps_back: int = 0
    """1 where they are those of the step before, which left the state behind that failed"""


class Guard(QuietCallback):
    """Judges every step before its update. Its state goes into every checkpoint, like that of other callbacks."""

    name = "guard"

    def __init__(
        self, settings: schema.Guard | None = None, *, run_folder: Path | None = None, is_main: bool = True
    ) -> None:  # fmt: skip
        """Rank 0 (`is_main`) keeps the list of quarantined samples in `run_folder`."""
        self._settings = settings or schema.Guard()
        self._run_folder = run_folder if is_main else None
        self._window = Window(size=self._settings.window, spike=self._settings.spike)
        self._snapshot = Snapshot()
        self._quarantine: dict[str, dict[str, Any]] = {}
        self._num_rollbacks = 0
        self._unexplained: int | None = None

    @property
    def is_on(self) -> bool:
        return self._settings.max_rollbacks > 0

    def left_out(self, step: int) -> Collection[str]:
        """Ids of the samples that 0-based `step` does not take: a quarantine holds from the step on that failed."""
        return frozenset(name for name, entry in self._quarantine.items() if entry["step"] <= step + 1)

    def check(self, run: Training, taken: StepRows, loss: float, grad_norm: float) -> None:
        """Return where the update may be made. NonFiniteError where the run ends; all ranks must call it."""
        is_finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if is_finite and not self.is_on:
            return
        reason = f"loss {loss}, gradient norm {grad_norm}"
        if not self.is_on:
            raise nonfinite.error_of(taken, reason, nonfinite.find(run, taken))
        if not is_finite:
            raise _SetbackError(taken, reason, "step")
        spike = self._window.spike(loss, grad_norm)
        if any_over_ranks(spike is not None):  # rounding on unlike processors must not part them
            raise _SetbackError(taken, spike or "a spike on another rank", "spike")
        self._window.add(loss, grad_norm)

    def step(
        self, run: Training, step: int, make: MakeStep, asked: Requests, stop: StopRequest, rows: Prefetch
    ) -> tuple[StepRecord | None, Requests]:
        """Make 0-based `step`, going back as often as it takes; no record where the step lost all of its samples."""
        if not self.is_on:
            return make(run, step, asked=asked, stop=stop, rows=rows)
        now = step
        while True:
            # who asked for something is heard when all is made again
            requests, signal = (asked, stop) if now == step else (Requests(), StopRequest())
            try:
                self._keep(run, now, rows)
                record, agreed = make(run, now, asked=requests, stop=signal, rows=rows)
            except _SetbackError as setback:
                now = self._go_back(run, setback, rows)
                continue
            if now == step:
                return record, agreed
            if record is not None:
                run.callbacks.step_again(record)
            now += 1

    def on_start(self, run: Training, step: int) -> None:
        self._write_quarantine()

    def state(self) -> dict[str, Any]:
        if not self.is_on:
            return {}
        return {
            "num_rollbacks": self._num_rollbacks,
            "quarantine": list(self._quarantine.values()),
            "window": self._window.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._num_rollbacks = state.get("num_rollbacks", 0)
        self._quarantine = {entry["sample_id"]: entry for entry in state.get("quarantine", ())}
        self._window.load_state(state.get("window", {}))

    def _keep(self, run: Training, step: int, rows: Prefetch) -> None:
        """A snapshot where one is due; of a state that is not finite none is made."""
        last = self._snapshot.step
        if last is not None and 0 <= step - last < self._settings.snapshot_every:
            return
        if name := first_broken(run.trainables, run.optimizer):
            raise _SetbackError(rows(step), f"after step {step} {name} held NaN or infinity", "state")
        self._snapshot.take(run, step)

    def _go_back(self, run: Training, setback: _SetbackError, rows: Prefetch) -> int:
        """The 0-based step to go on with, its state restored; NonFiniteError where the run ends instead."""
        taken = setback.taken
        verdict = self._judge(run, setback)
        self._num_rollbacks += 1
        counters = self.state()
        start = self._snapshot.put_back(run)
        self.load_state(counters | {"window": self.state()["window"]})
        first = taken.step + 1 - verdict.num_steps_back
        new: dict[str, dict[str, Any]] = {
            each: {"sample_id": each, "step": first, "reason": verdict.reason} for each in verdict.sample_ids
        }
        # another dictionary: the thread that reads ahead may be looking at this one
        self._quarantine = self._quarantine | new
        rows.go_to(range(start, run.plan.total_steps))
        self._write_quarantine()
        self._tell(run, taken, verdict, start)
        return start

    def _judge(self, run: Training, setback: _SetbackError) -> _Verdict:
        """Which rows are at fault, and in what way; all ranks come to the same."""
        taken, is_last = setback.taken, self._num_rollbacks >= self._settings.max_rollbacks
        if setback.kind == "spike":
            if is_last:
                raise self._too_often(nonfinite.error_of(taken, setback.reason, None))
            return _Verdict(setback.reason, tuple(dict.fromkeys(taken.sample_ids)))
        finding = nonfinite.find(run, taken)
        error = nonfinite.error_of(taken, setback.reason, finding)
        if finding.blame == "base" or self._snapshot.step is None:  # no snapshot has a better one
            raise error
        if is_last:
            raise self._too_often(error)
        reason = f"{setback.reason}; {finding.place}" if finding.place else setback.reason
        return self._at_fault(run, setback, finding, reason)

    def _at_fault(self, run: Training, setback: _SetbackError, finding: Finding, reason: str) -> _Verdict:
        """Rows that fail by themselves. Where none does, the machine may have miscalculated: the same step has another
        chance with all of its rows, and only when it fails again those that may have done it are left out."""
        taken = setback.taken
        is_state = finding.blame == "weights" or setback.kind == "state"
        if finding.blame == "rows" and not is_state:
            return _Verdict(reason, finding.sample_ids)
        is_first, self._unexplained = self._unexplained != taken.step, taken.step
        if is_first:
            return _Verdict(reason, ())
        if is_state and taken.step > 0:
            return _Verdict(reason, run.rows(taken.step - 1).sample_ids, num_steps_back=1)
        return _Verdict(reason, taken.sample_ids)

    def _too_often(self, error: NonFiniteError) -> NonFiniteError:
        most = self._settings.max_rollbacks
        what = f"{error.what}\n  the run had gone back {most} times already (train.guard.max_rollbacks)"
        return NonFiniteError(what, where=error.where, mend=error.mend)

    def _tell(self, run: Training, taken: StepRows, verdict: _Verdict, start: int) -> None:
        ids = verdict.sample_ids
        shown = ", ".join(ids[:NUM_SHOWN]) + (" ..." if len(ids) > NUM_SHOWN else "")
        left = f"{len(ids)} samples left out from now on ({shown})" if ids else "no sample is at fault so far"
        incident = Incident(
            step=taken.step + 1,
            kind=KIND,
            text=f"step {taken.step + 1}: {verdict.reason}; went back to the state after step {start} "
            f"({taken.step - start} steps are made again), rollback {self._num_rollbacks} of at most "
            f"{self._settings.max_rollbacks}; {left}",
            facts={
                "reason": verdict.reason,
                "state_after_step": start,
                "num_steps_again": taken.step - start,
                "num_samples": len(ids),
                "sample_ids": list(ids),
            },
        )
        # a continued run comes to the same decision as the one before it
        if self._run_folder is None or incident not in read_incidents(self._run_folder):
            run.callbacks.on_incident(incident)

    def _write_quarantine(self) -> None:
        """RUN/quarantine.jsonl: bad rows of the data, which are there already, and then these samples."""
        if self._run_folder is None or not self._quarantine:
            return
        path = self._run_folder / FILE_NAME
        known = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        of_data = [line for line in known if "sample_id" not in json.loads(line)]
        lines = [*of_data, *(json.dumps(entry) for entry in self._quarantine.values())]
        write_text(path, "".join(f"{line}\n" for line in lines))
