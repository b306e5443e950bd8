"""TensorBoard reads back what was written: HF's tags, each step once, also after a resume."""

import math
import sys
from pathlib import Path

import pytest

from whet.tracking import TrackedRun
from whet.tracking.tensorboard import TensorboardTracker
from whet.types import StepRecord

pytest.importorskip("tensorboard")

HF_TAGS = {"train/loss", "train/grad_norm", "train/learning_rate", "train/epoch", "train/tokens_per_second"}


def record(step: int, loss: float) -> StepRecord:
    return StepRecord(
        step=step,
        epoch=step / 10,
        loss=loss,
        lr=1e-4,
        grad_norm=0.5,
        num_tokens=64,
        num_taught=32,
        seconds=0.1,
        tokens_per_second=640.0,
        batch_hash="0" * 16,
    )


def write_steps(folder: Path, first: int, last: int, resume_step: int = 0, loss: float = 1.0) -> None:
    tracker = TensorboardTracker()
    tracker.start(TrackedRun(name="demo", folder=folder, resume_step=resume_step))
    for step in range(first, last + 1):
        tracker.log_step(record(step, loss))
        if step % 5 == 0:
            tracker.log_eval(step, {"loss": 2.0, "num_taught": 10, "seconds": 0.1})
    tracker.close()
    tracker.close()


def read_back(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    return events


def test_tags_and_values_are_those_of_hugging_face(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 5)
    events = read_back(tmp_path)
    tags = set(events.Tags()["scalars"])
    assert tags >= HF_TAGS
    assert {"time/data_seconds", "time/backward_seconds", "time/save_seconds"} <= tags
    assert {tag for tag in tags if tag.startswith("eval/")} >= {"eval/loss", "eval/perplexity"}
    assert events.Scalars("train/learning_rate")[0].value == pytest.approx(1e-4)
    assert events.Scalars("eval/perplexity")[0].value == pytest.approx(math.exp(2.0))


def test_steps_are_unique_and_increasing_after_a_resume(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 13, loss=1.0)
    write_steps(tmp_path, 11, 20, resume_step=10, loss=3.0)
    events = read_back(tmp_path)
    for tag in HF_TAGS:
        assert [event.step for event in events.Scalars(tag)] == list(range(1, 21))
    assert [event.value for event in events.Scalars("train/loss")] == [1.0] * 10 + [3.0] * 10
    assert [event.step for event in events.Scalars("eval/loss")] == [5, 10, 15, 20]


def test_a_huge_loss_has_an_infinite_perplexity_instead_of_an_overflow(tmp_path: Path) -> None:
    tracker = TensorboardTracker()
    tracker.start(TrackedRun(name="demo", folder=tmp_path))
    tracker.log_eval(1, {"loss": 1e4})
    tracker.close()
    assert read_back(tmp_path).Scalars("eval/perplexity")[0].value == math.inf


def test_numbers_of_answers_are_tags_and_a_measured_perplexity_is_not_replaced(tmp_path: Path) -> None:
    tracker = TensorboardTracker()
    tracker.start(TrackedRun(name="demo", folder=tmp_path))
    tracker.log_eval(1, {"answer_accuracy": 0.25, "guard/loss": 9.0, "loss": 2.0, "perplexity": 8.0})
    tracker.close()
    events = read_back(tmp_path)
    found = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert found == {"eval/answer_accuracy": 0.25, "eval/guard/loss": 9.0, "eval/loss": 2.0, "eval/perplexity": 8.0}


def test_without_the_package_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        TensorboardTracker().start(TrackedRun(name="demo", folder=tmp_path))
