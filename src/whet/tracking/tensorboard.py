"""TensorBoard event files in `<run folder>/logs`, with the tag names of Hugging Face's Trainer.

A resumed run continues in the same folder; `purge_step` tells TensorBoard to forget what came after the resumed step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from whet.tracking.names import numbers_of_eval, numbers_of_step
from whet.tracking.protocol import TrackedRun
from whet.types import StepRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER_NAME = "logs"


class TensorboardTracker:
    """Tracker that writes event files; needs the package tensorboard, else `start` raises ImportError."""

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None

    def start(self, run: TrackedRun) -> None:
        """Open a new event file in `<run folder>/logs`."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("tensorboard is not installed (pip install tensorboard)") from error
        purge_step = run.resume_step + 1 if run.resume_step else None
        self._writer = SummaryWriter(log_dir=str(run.folder / FOLDER_NAME), purge_step=purge_step)

    def log_step(self, record: StepRecord) -> None:
        """One scalar per number of `names.py`."""
        for tag, value in numbers_of_step(record).items():
            self._scalar(tag, value, record.step)
        self._flush()

    def log_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        """`eval/<name>` for every metric, and `eval/perplexity`."""
        for tag, value in numbers_of_eval(metrics).items():
            self._scalar(tag, value, step)
        self._flush()

    def close(self) -> None:
        """Flush and close the event file; a second call does nothing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        """A run that is killed lacks no step that it took: what was tracked of later ones is void anyway."""
        assert self._writer is not None, "start() comes first"
        self._writer.flush()

    def _scalar(self, tag: str, value: float, step: int) -> None:
        assert self._writer is not None, "start() comes first"
        self._writer.add_scalar(tag, value, step)
