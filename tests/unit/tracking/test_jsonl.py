"""metrics.jsonl holds every step once, whatever happened in between."""

import errno
import json
import math
import os
from dataclasses import asdict
from io import RawIOBase
from pathlib import Path

import pytest

from whet.tracking import TrackedRun
from whet.tracking.jsonl import JsonlTracker
from whet.types import StepRecord


def record(step: int, loss: float = 1.0) -> StepRecord:
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


def run(folder: Path, resume_step: int = 0) -> TrackedRun:
    return TrackedRun(name="demo", folder=folder, resume_step=resume_step)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write_steps(folder: Path, first: int, last: int, resume_step: int = 0) -> None:
    tracker = JsonlTracker()
    tracker.start(run(folder, resume_step))
    for step in range(first, last + 1):
        tracker.log_step(record(step))
        if step % 5 == 0:
            tracker.log_eval(step, {"loss": 2.0, "num_taught": 10, "seconds": 0.1})
    tracker.close()


def test_every_line_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    tracker = JsonlTracker()
    tracker.start(run(tmp_path / "new"))
    tracker.log_step(record(1))
    assert lines(tmp_path / "new") == [{"kind": "step", **asdict(record(1))}]
    tracker.log_eval(1, {"loss": 2.5, "num_taught": 7, "seconds": 0.5})
    tracker.log_event(1, 'quote " newline \n and \ud800')
    assert lines(tmp_path / "new")[1] == {"kind": "eval", "step": 1, "loss": 2.5, "num_taught": 7, "seconds": 0.5}
    assert lines(tmp_path / "new")[2]["text"] == 'quote " newline \n and \ud800'
    tracker.close()
    tracker.close()


def test_a_resume_leaves_every_step_once_and_says_what_it_took_out(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 13)
    write_steps(tmp_path, 11, 20, resume_step=10)
    found = lines(tmp_path)
    assert [line["step"] for line in found if line["kind"] == "step"] == list(range(1, 21))
    assert [line["step"] for line in found if line["kind"] == "eval"] == [5, 10, 15, 20]
    (event,) = [line for line in found if line["kind"] == "event"]
    assert "took out 3 lines of later steps and 0 unreadable" in event["text"]


@pytest.mark.parametrize("torn", [b'{"kind": "step", "st', b"\xff\xfe", b"null", b'{"kind": "step"}', b"[" * 50_000])
def test_a_torn_last_line_is_repaired(tmp_path: Path, torn: bytes) -> None:
    write_steps(tmp_path, 1, 4)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    write_steps(tmp_path, 5, 6, resume_step=4)
    assert [line["step"] for line in lines(tmp_path) if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]


def test_a_last_line_that_lacks_only_its_line_end_is_kept(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    write_steps(tmp_path, 4, 4, resume_step=3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_a_resume_with_nothing_to_take_out_does_not_touch_the_file(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3)
    before = (tmp_path / "metrics.jsonl").stat().st_ino
    write_steps(tmp_path, 4, 5, resume_step=3)
    assert (tmp_path / "metrics.jsonl").stat().st_ino == before
    assert [line["kind"] for line in lines(tmp_path)] == ["step"] * 5 + ["eval"]


def test_a_new_run_in_an_old_folder_starts_with_an_empty_log(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3)
    write_steps(tmp_path, 1, 2)
    assert [line["step"] for line in lines(tmp_path) if line["kind"] == "step"] == [1, 2]


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path: Path) -> None:
    tracker = JsonlTracker()
    tracker.start(run(tmp_path))
    tracker.log_step(record(1, loss=math.nan))
    tracker.log_eval(1, {"loss": math.inf})
    tracker.close()
    assert [line["loss"] for line in lines(tmp_path)] == [None, None]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_lines_that_the_disk_did_not_take_follow_when_it_does(tmp_path: Path, monkeypatch, caplog) -> None:
    tracker = JsonlTracker()
    tracker.start(run(tmp_path))
    tracker.log_step(record(1))
    file = tracker._file
    tracker._file = NearlyFull(file, room=10)
    for step in (2, 3):
        tracker.log_step(record(step))
    assert len(caplog.messages) == 1 and "its lines wait in memory" in caplog.messages[0]
    tracker._file = file
    tracker.log_step(record(4))
    tracker.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_lines_that_the_disk_never_took_are_told_at_the_end(tmp_path: Path) -> None:
    tracker = JsonlTracker()
    tracker.start(run(tmp_path))
    with tracker._file as file:
        tracker._file = NearlyFull(file, room=10)
        tracker.log_step(record(1))
        with pytest.raises(OSError, match="No space left"):
            tracker.close()
        tracker.close()


class NearlyFull(RawIOBase):
    """A file on a disk with `room` bytes left."""

    def __init__(self, file: RawIOBase, room: int) -> None:
        self._under, self._room = file, room

    def write(self, content: bytes) -> int:
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken, self._room = content[: self._room], 0
        return self._under.write(taken)
