"""Answers of training are kept with the step that they are of, by rank 0, and a full disk does not stop a run."""

from __future__ import annotations

import json
from types import SimpleNamespace

from whet.errors import StorageError
from whet.tracking import samples
from whet.tracking.samples import Shown
from whet.train.callbacks import EvalRecord
from whet.train.on_answers import OnAnswers

ANSWER = Shown(set="a", id="r", prompt="p", text="t", golds=("g",), is_correct=True, was_cut=False)


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[int, str]] = []

    def on_event(self, step: int, text: str) -> None:
        self.events.append((step, text))


def start(folder, *, is_main=True, told=None, step=0) -> OnAnswers:
    answers = OnAnswers(folder, SimpleNamespace(is_main=is_main))
    answers.on_start(SimpleNamespace(callbacks=told or Told()), step)
    return answers


def evaluated(step: int) -> EvalRecord:
    return EvalRecord(step=step, metrics={}, seconds=1.0)


def test_answers_stand_under_the_step_that_is_told_after_them(tmp_path):
    answers = start(tmp_path)
    answers.hear([ANSWER])
    answers.hear([ANSWER])
    answers.on_evaluated(evaluated(4))
    answers.on_evaluated(evaluated(8))
    lines = [json.loads(line) for line in (tmp_path / samples.FILE_NAME).read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 4] and lines[0]["golds"] == ["g"]


def test_other_ranks_write_nothing(tmp_path):
    answers = start(tmp_path, is_main=False)
    answers.hear([ANSWER])
    answers.on_evaluated(evaluated(4))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_an_event_and_no_end(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise StorageError("disk is full", where="x")

    told = Told()
    answers = start(tmp_path, told=told)
    monkeypatch.setattr(samples, "append", refuse)
    answers.hear([ANSWER])
    answers.on_evaluated(evaluated(4))
    assert told.events == [(4, "answers were not kept: disk is full")]
