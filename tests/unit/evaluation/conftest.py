"""A finished tiny run, what it is asked, and a clock, for the tests of evaluations."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_evaluations

from whet.evaluation import answers, run


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    tiny_evaluations.write_run(folder, num_rows=tiny_evaluations.NUM_ROWS)
    tiny_evaluations.add_run(folder, "other", folder / "base", size=0.5)
    return folder


@pytest.fixture
def place(original, monkeypatch, tmp_path) -> Path:
    """The runs without any evaluation, and an empty cache."""
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    for name in ("run", "other"):
        shutil.rmtree(original / name / "evaluations", ignore_errors=True)
    return original


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Ids of the rows that a model was asked, in order."""
    ids: list[str] = []
    generate = answers.generate

    def record(model, prompts, *, keys, **others):
        ids.extend(keys)
        return generate(model, prompts, keys=keys, **others)

    monkeypatch.setattr(answers, "generate", record)
    return ids


class Clock:
    """Time that passes as rows are answered."""

    def __init__(self, seconds_per_row: float) -> None:
        self.now, self.seconds_per_row = 0.0, seconds_per_row

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """One second per row."""
    clock = Clock(1.0)
    generate = answers.generate

    def slow(model, prompts, **others):
        clock.now += clock.seconds_per_row * len(prompts)
        return generate(model, prompts, **others)

    monkeypatch.setattr(answers, "generate", slow)
    for module in (answers, run):
        monkeypatch.setattr(f"{module.__name__}.time", clock_module(clock))
    monkeypatch.setattr("whet.evaluation.run.TimeBox", lambda deadline: answers.TimeBox(deadline, clock=clock))
    return clock


def clock_module(clock):
    return type("time", (), {"monotonic": staticmethod(clock)})
