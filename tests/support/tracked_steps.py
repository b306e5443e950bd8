"""Steps for a tracker: a run, the same one going on after a kill, and going on from further back as another."""

from __future__ import annotations

from pathlib import Path

from whet.tracking import TRACKERS, TrackedRun
from whet.types import StepRecord

TAGS = ("mine", "rank:8")
ONE_CURVE = [(step, 1.0 / step) for step in range(1, 11)]
CHANGED_CURVE = [(step, 3.0 / step) for step in range(9, 13)]


def record(step: int, loss: float, **others) -> StepRecord:
    return StepRecord(
        step=step, epoch=step / 10, loss=loss, lr=1e-4, grad_norm=0.5, num_tokens=64, num_taught=32, seconds=0.1,
        tokens_per_second=640.0, batch_hash="0" * 16, memory_bytes=2e9, **others,
    )  # fmt: skip


def go(name: str, folder: Path, resume_step: int, last: int, numerator: float = 1.0, **described) -> None:
    """Steps after `resume_step`, an evaluation at every fifth."""
    tracker = TRACKERS[name]()
    described = {"project": "p", "tags": TAGS, "config": {"optim": {"lr": 1e-4}}} | described
    tracker.start(TrackedRun(name="demo", folder=folder, resume_step=resume_step, **described))
    for step in range(resume_step + 1, last + 1):
        tracker.log_step(record(step, numerator / step))
        if step % 5 == 0:
            tracker.log_eval(step, {"loss": 2.0, "answer_accuracy": step / 100, "num_taught": 9, "seconds": 0.1})
    tracker.close()
    tracker.close()


def drive(name: str, folder: Path) -> None:
    """Killed after step 7, goes on after 4 to 10; then from 8 on with another loss."""
    go(name, folder, 0, 7)
    go(name, folder, 4, 10)
    go(name, folder, 8, 12, numerator=3.0)
