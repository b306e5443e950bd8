"""What a person and the trackers see of a run: a progress bar, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from whet.errors import StorageError
from whet.parallel.env import Env
from whet.recipe.measured import shown_once
from whet.recipe.schema import Recipe
from whet.report.follow import clock
from whet.streams import Lasting
from whet.tracking import TrackerGroup, describe
from whet.train.best import Best
from whet.train.callbacks import EvalRecord, QuietCallback, Requests
from whet.train.gauge import Gauge
from whet.train.incidents import Incident, append_incident
from whet.types import RunPlan, StepRecord

if TYPE_CHECKING:
    from whet.train.loop import Training

_PLAIN_LINES = 25
_RECENT = 10
_SHARES = ("answer_accuracy", "exact_match", "token_f1", "rouge1", "rouge2", "rougeL", "token_accuracy", "stop_rate")


class Monitor(QuietCallback):
    """Progress and trackers; silent on every rank but 0."""

    name = "monitor"

    def __init__(self, recipe: Recipe, run_folder: Path, *, env: Env, say: Callable[[str], None]) -> None:
        self._recipe, self._folder = recipe, run_folder
        self._is_main = env.is_main
        self._say = say
        self._trackers = TrackerGroup(recipe.tracking)
        self._gauge: Gauge | None = None
        self._plan: RunPlan | None = None
        self._best: Best | None = None
        self._recent: deque[StepRecord] = deque(maxlen=_RECENT)
        self._progress = _Bar() if env.is_main and sys.stderr.isatty() else None

    def on_start(self, run: Training, step: int) -> None:
        self._plan, self._best = run.plan, run.best
        if self._is_main:
            self._gauge = Gauge(run.device)
            self._trackers.start(describe(self._recipe, self._folder, step))
        if self._progress:
            self._progress.start(step, run.plan.total_steps)

    def after_step(self, record: StepRecord) -> Requests:
        if not self._is_main or self._plan is None:
            return Requests()
        self._trackers.log_step(self._gauge.on(record) if self._gauge else record)
        self._recent.append(record)
        seconds = sum(r.seconds for r in self._recent)
        rate = sum(r.num_tokens for r in self._recent) / seconds
        left = seconds / len(self._recent) * (self._plan.total_steps - record.step)
        text = f"loss {record.loss:.4f}  {rate:,.0f} tokens/s  {clock(left)} left"
        if self._progress:
            self._progress.update(record.step, text)
        elif record.step % max(1, self._plan.total_steps // _PLAIN_LINES) == 0 or record.step == 1:
            self._say(f"step {record.step}/{self._plan.total_steps}  {text}")
        return Requests()

    def on_event(self, step: int, text: str) -> None:
        if self._is_main:
            self._trackers.log_event(step, text)

    def on_incident(self, incident: Incident) -> None:
        if not self._is_main:
            return
        self._tell(incident.text)
        self._trackers.log_event(incident.step, incident.text)
        try:
            append_incident(self._folder, incident)
        except StorageError as error:  # a full disk stops a run where it matters: at a checkpoint
            self._trackers.log_event(incident.step, f"an incident was not kept: {error.what}")

    def on_evaluated(self, record: EvalRecord) -> None:
        if not self._is_main:
            return
        self._trackers.log_eval(record.step, {**record.metrics, "seconds": record.seconds})
        numbers = [text for name, value in shown_once(record.metrics).items() if (text := _in_words(name, value))]
        best = "  (best so far)" if self._best is not None and self._best.step == record.step else ""
        self._tell(f"step {record.step}  {'  '.join(numbers)}{best}")

    def _tell(self, text: str) -> None:
        """A sentence for people, above the bar where there is one."""
        if self._progress and sys.stdout.isatty():
            self._progress.print_above(text)
        else:
            self._say(text)

    def answering(self, name: str, num_done: int, num_rows: int) -> None:
        """Answers to an evaluation set in the middle of training come in."""
        if self._progress:
            self._progress.describe(f"answering {name}: {min(num_done, num_rows)}/{num_rows}")

    def on_error(self, error: BaseException) -> None:
        if self._is_main:
            self._trackers.log_event(self._recent[-1].step if self._recent else 0, f"{type(error).__name__}: {error}")
        self._close()

    def on_stop(self, step: int) -> None:
        self._close()

    def _close(self) -> None:
        if self._progress:
            self._progress.stop()
        if self._is_main:
            self._trackers.close()


class _Bar:
    """A rich progress bar on standard error, so that standard output stays clean."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
            console=Console(file=cast("TextIO", Lasting())),
        )  # fmt: skip
        self._task = self._bar.add_task("", total=None)

    def start(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)
        self._bar.start()

    def update(self, done: int, text: str) -> None:
        self._bar.update(self._task, completed=done, description=text)

    def describe(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def print_above(self, text: str) -> None:
        """A line on the same terminal without tearing the bar."""
        self._bar.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        self._bar.stop()


def _in_words(name: str, value: float) -> str:
    """`answer accuracy 12.5%` of a share, `validation loss 0.5000` of another number; nothing of a count."""
    if name == "num_taught":
        return ""
    metric = name.rsplit("/", 1)[-1]
    words = "validation loss" if name == "loss" else name.replace("/", " ").replace("_", " ")
    return f"{words} {value:.1%}" if metric in _SHARES else f"{words} {value:.4f}"
