"""No tracker can stop a run; every tracker of the table keeps the protocol."""

import json
import logging
from pathlib import Path

import pytest
from stand_in_trackers import STAND_INS, put_in_place

from whet.errors import RecipeError
from whet.tracking import TRACKERS, TrackedRun, TrackerGroup, trackers
from whet.types import StepRecord


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        epoch=0.1,
        loss=1.0,
        lr=1e-4,
        grad_norm=0.5,
        num_tokens=64,
        num_taught=32,
        seconds=0.1,
        tokens_per_second=640.0,
        batch_hash="0" * 16,
    )


class Broken:
    """A tracker whose disk fills up at `fails_at`."""

    def __init__(self, fails_at: str) -> None:
        self.fails_at = fails_at
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails_at:
            raise OSError(28, "No space left on device")

    def start(self, run) -> None:
        self._call("start")

    def log_step(self, record) -> None:
        self._call("log_step")

    def log_eval(self, step, metrics) -> None:
        self._call("log_eval")

    def close(self) -> None:
        self._call("close")


def drive(group: TrackerGroup, folder: Path) -> list[dict]:
    group.start(TrackedRun(name="demo", folder=folder))
    for step in (1, 2, 3):
        group.log_step(record(step))
        group.log_eval(step, {"loss": 1.0})
    group.close()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("fails_at", ["start", "log_step", "log_eval", "close"])
def test_a_tracker_that_fails_is_switched_off_with_one_warning(tmp_path, monkeypatch, caplog, fails_at) -> None:
    broken = Broken(fails_at)
    monkeypatch.setitem(trackers.TRACKERS, "broken", lambda: broken)
    with caplog.at_level(logging.WARNING):
        lines = drive(TrackerGroup(["broken"]), tmp_path)
    assert list(caplog.messages) == ["tracker broken is switched off: [Errno 28] No space left on device"]
    assert broken.calls.count(fails_at) == 1
    assert broken.calls[-1] == fails_at, "called again after it was switched off"
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2, 3]
    assert [line["text"] for line in lines if line["kind"] == "event"] == caplog.messages


def test_even_a_failing_metrics_file_does_not_stop_the_run(tmp_path, monkeypatch, caplog) -> None:
    healthy = Broken("never")
    monkeypatch.setitem(trackers.TRACKERS, "healthy", lambda: healthy)
    group = TrackerGroup(["healthy"])
    (tmp_path / "metrics.jsonl").mkdir()
    group.start(TrackedRun(name="demo", folder=tmp_path))
    group.log_step(record(1))
    group.log_event(1, "nobody hears this")
    group.close()
    assert healthy.calls == ["start", "log_step", "close"]
    assert len(caplog.messages) == 1
    assert "tracker jsonl is switched off" in caplog.messages[0]


def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    lines = drive(TrackerGroup(["tensorboard"]), tmp_path)
    assert caplog.messages == [
        "tracker tensorboard is switched off: tensorboard is not installed (pip install tensorboard)"
    ]
    assert len([line for line in lines if line["kind"] == "step"]) == 3


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_every_tracker_of_the_table_takes_a_whole_run_and_stays_in_its_folder(tmp_path, monkeypatch, name) -> None:
    if name in STAND_INS:
        put_in_place(monkeypatch, name)
    folder = tmp_path / "run"
    tracker = TRACKERS[name]()
    for resume_step in (0, 1):
        tracker.start(TrackedRun(name="demo", folder=folder, resume_step=resume_step))
        tracker.log_step(record(resume_step + 1))
        tracker.log_eval(resume_step + 1, {"loss": 1.0, "num_taught": 3, "seconds": 0.1})
        tracker.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert any(path.is_file() and path.stat().st_size for path in folder.rglob("*"))


def test_an_unknown_tracker_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="unknown tracker 'wandbb'"):
        TrackerGroup(["wandbb"])


def test_an_error_before_the_start_is_not_hidden_by_the_trackers(tmp_path: Path) -> None:
    group = TrackerGroup(["tensorboard"])
    group.log_event(0, "the model could not be loaded")
    group.close()
    assert list(tmp_path.iterdir()) == []
