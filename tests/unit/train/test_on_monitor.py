"""What a person sees of a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import make_plan

from whet.parallel.env import Env
from whet.recipe.schema import Data, Recipe, Source
from whet.report.follow import clock
from whet.train.best import Best
from whet.train.callbacks import EvalRecord
from whet.train.on_monitor import Monitor
from whet.types import StepRecord

RUN = SimpleNamespace(plan=make_plan(8, micro_batch=2, global_batch=2), best=Best(), device=torch.device("cpu"))
EVALUATED = EvalRecord(step=2, metrics={"loss": 0.5, "token_accuracy": 0.25, "num_taught": 8}, seconds=0.1)


def record(step: int, loss: float = 1.0) -> StepRecord:
    return StepRecord(
        step=step, epoch=0.5, loss=loss, lr=1e-3, grad_norm=1.0, num_tokens=100, num_taught=50, seconds=2.0,
        tokens_per_second=50.0, batch_hash="0" * 16,
    )  # fmt: skip


def make_monitor(folder: Path, *, rank: int = 0) -> tuple[Monitor, list[str]]:
    said: list[str] = []
    recipe = Recipe(name="seen", output=str(folder), data=Data(train=(Source(source="rows.jsonl"),)), tracking=())
    return Monitor(recipe, folder, env=Env(rank=rank, world_size=2), say=said.append), said


def test_without_a_terminal_there_are_plain_lines_with_loss_rate_and_time_left(tmp_path: Path) -> None:
    monitor, said = make_monitor(tmp_path)
    monitor.on_start(RUN, 0)
    monitor.after_step(record(1))
    monitor.on_evaluated(EVALUATED)
    monitor.on_stop(1)
    assert said[0].startswith("step 1/4  loss 1.0000  50 tokens/s  0:06 left")
    assert said[1] == "step 2  validation loss 0.5000  token accuracy 25.0%"


def test_on_a_terminal_a_line_goes_above_the_bar_and_not_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monitor, said = make_monitor(tmp_path)
    above: list[str] = []
    monkeypatch.setattr(monitor._progress, "print_above", above.append)
    monitor.on_start(RUN, 0)
    monitor.on_evaluated(EVALUATED)
    monitor.on_stop(2)
    assert above == ["step 2  validation loss 0.5000  token accuracy 25.0%"]
    assert said == []


def test_answers_in_training_are_told_as_shares_and_a_new_best_is_marked(tmp_path: Path) -> None:
    monitor, said = make_monitor(tmp_path)
    best = Best(name="answer_accuracy", is_higher_better=True, step=4, value=0.125)
    monitor.on_start(SimpleNamespace(plan=RUN.plan, best=best, device=RUN.device), 0)
    metrics = {"answer_accuracy": 0.125, "guard/answer_length": 31.5}
    for step in (4, 5):
        monitor.on_evaluated(EvalRecord(step=step, metrics=metrics, seconds=0.5))
    monitor.on_stop(5)
    assert said == [
        "step 4  answer accuracy 12.5%  guard answer length 31.5000  (best so far)",
        "step 5  answer accuracy 12.5%  guard answer length 31.5000",
    ]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {"kind": "eval", "step": 4, **metrics, "seconds": 0.5}


def test_answers_that_come_in_are_counted_on_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monitor, said = make_monitor(tmp_path)
    told: list[str] = []
    monkeypatch.setattr(monitor._progress, "describe", told.append)
    # two ranks count by twos, and the last row may be one rank's alone
    for num_done in (2, 4):
        monitor.answering("sums", num_done, 3)
    assert told == ["answering sums: 2/3", "answering sums: 3/3"] and said == []


def test_what_a_callback_did_is_a_line_of_metrics_and_nothing_on_the_screen(tmp_path: Path) -> None:
    monitor, said = make_monitor(tmp_path)
    monitor.on_start(RUN, 0)
    monitor.on_event(3, "turned around")
    monitor.on_stop(3)
    (line,) = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"kind": "event", "step": 3, "text": "turned around"}
    assert said == []


def test_other_ranks_say_and_write_nothing(tmp_path: Path) -> None:
    monitor, said = make_monitor(tmp_path, rank=1)
    monitor.on_start(RUN, 0)
    monitor.after_step(record(1))
    monitor.on_event(1, "something")
    monitor.on_evaluated(EVALUATED)
    monitor.on_stop(1)
    assert said == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_time_left_reads_like_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
