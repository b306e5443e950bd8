"""A run that is followed: what was read stays, what a resume takes back goes, and time left is counted honestly."""

from __future__ import annotations

import json

import pytest

from whet.report.follow import Follower, clock, seconds_left
from whet.report.metrics_log import MetricsLog


def step(number: int, **more: float) -> dict[str, object]:
    return {"kind": "step", "step": number, "loss": 1.0 / number, "seconds": 2.0, "tokens_per_second": 100.0, **more}


def write(path, *lines):
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_it_takes_in_what_comes_and_tells_whether_anything_did(tmp_path):
    follower = Follower(tmp_path)
    assert not follower.look()
    write(tmp_path / "metrics.jsonl", step(1), step(2), {"kind": "eval", "step": 2, "loss": 0.5, "seconds": 1.0})
    write(tmp_path / "samples.jsonl", {"step": 2, "set": "a", "id": "r", "prompt": "p", "text": "t", "golds": ["g"]})
    write(tmp_path / "incidents.jsonl", {"step": 2, "kind": "rollback", "text": "back"})
    assert follower.look() and not follower.look()
    assert [point.step for point in follower.log.steps] == [1, 2] and follower.log.evals[0].loss == 0.5
    assert follower.rows[0].last.text == "t" and follower.incidents[0].kind == "rollback"
    (tmp_path / "run_plan.json").write_text('{"total_steps": 10}')
    assert follower.look() and follower.total_steps == 10


def test_what_a_resumed_run_takes_back_is_forgotten(tmp_path):
    write(tmp_path / "metrics.jsonl", step(1), step(2), step(3))
    follower = Follower(tmp_path)
    follower.look()
    write(tmp_path / "anew", step(1))
    (tmp_path / "anew").replace(tmp_path / "metrics.jsonl")
    assert follower.look()
    assert [point.step for point in follower.log.steps] == [1]


def test_answers_to_a_row_stand_in_the_order_of_steps_and_a_step_made_again_counts_once(tmp_path):
    answer = {"set": "a", "id": "r", "prompt": "p", "golds": []}
    write(
        tmp_path / "samples.jsonl", *({**answer, "step": n, "text": text} for n, text in ((2, "x"), (4, "y"), (2, "z")))
    )
    follower = Follower(tmp_path)
    follower.look()
    assert [(each.step, each.text) for each in follower.rows[0].answers] == [(2, "z"), (4, "y")]


def test_time_left_counts_the_evaluations_to_come():
    log = MetricsLog()
    for number in range(1, 11):
        log.add(step(number))
    assert seconds_left(log, 20) == pytest.approx(10 * 2.0)
    log.add({"kind": "eval", "step": 10, "loss": 1.0, "seconds": 5.0})
    assert seconds_left(log, 20) == pytest.approx(10 * 2.5)
    assert seconds_left(log, None) is None and seconds_left(MetricsLog(), 20) is None
    assert clock(3723.4) == "1:02:03" and clock(63) == "1:03"


def test_memory_and_utilisation_are_taken_under_whatever_name_they_are_logged():
    log = MetricsLog()
    log.add(step(1, gpu_memory_bytes=5, gpu_utilization=0.5, epoch=1.0))
    assert log.steps[0].machine == {"gpu_memory_bytes": 5.0, "gpu_utilization": 0.5}
