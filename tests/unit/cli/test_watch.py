"""`whet watch` beside a run that grows: one view, news as lines, and the end of the run ends it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from whet.checkpoint.lock import locked
from whet.cli import watch
from whet.cli.watch_screen import News, view
from whet.report.follow import Follower

RECIPE = "name: a\noutput: runs/a\ndata: {train: [{source: a.jsonl}]}\n"


def write_steps(run: Path, first: int, last: int, torn: str = "") -> None:
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(first, last + 1):
            line = {"kind": "step", "step": step, "loss": 2.0 / step, "lr": 1e-4, "grad_norm": 1.0, "seconds": 0.5,
                    "tokens_per_second": 250.0}  # fmt: skip
            file.write(json.dumps(line) + "\n")
        file.write(torn)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "run_plan.json").write_text('{"total_steps": 50}')
    write_steps(folder, 1, 20)
    return folder


def shown(follower: Follower, width: int = 100, num_rows: int | None = None) -> str:
    console = Console(width=width, height=40, record=True, file=StringIO(), color_system=None)
    console.print(view(follower, "running", console, num_rows=num_rows))
    return console.export_text()


def test_one_view_has_curve_speed_time_left_answers_and_incidents(run):
    answer = {
        "step": 10,
        "set": "sums",
        "id": "r",
        "prompt": "1+1?",
        "text": "it is\n2",
        "golds": ["2"],
        "is_correct": True,
    }
    (run / "samples.jsonl").write_text(json.dumps(answer) + "\n")
    (run / "incidents.jsonl").write_text('{"step": 7, "kind": "rollback", "text": "went back"}\n')
    follower = Follower(run)
    follower.look()
    said = shown(follower)
    assert "step 20 of 50" in said and "0:15 left" in said and "250 tokens/s" in said
    assert "right" in said and "it is 2" in said and "step 7: went back" in said
    assert any("\u2800" < letter < "\u28ff" for letter in said)


def test_rows_steer_no_terminal_and_fill_no_screen(run):
    hostile = "\x1b]0;title\x07\x1b[2J[red]" + "x" * 5000 + "\u202e"
    answer = {"step": 10, "set": hostile, "id": "r", "prompt": hostile, "text": hostile, "golds": []}
    (run / "samples.jsonl").write_text(json.dumps(answer) + "\n")
    (run / "incidents.jsonl").write_text(json.dumps({"step": 1, "kind": hostile, "text": hostile}) + "\n")
    follower = Follower(run)
    follower.look()
    said = shown(follower, width=80, num_rows=30)
    assert "\x1b" not in said and "\u202e" not in said and "[red]" in said
    assert len(said.splitlines()) <= 31 and all(len(line) <= 80 for line in said.splitlines())


def test_once_prints_a_view_and_what_to_type_next(run, call):
    code, said, _ = call("watch", str(run), "--once")
    assert code == 0 and "stopped" in said and said.splitlines()[-1].startswith("next: whet train ")
    (run / "summary.json").write_text('{"status": "finished", "steps": 20}')
    assert call("watch", str(run))[1].splitlines()[-1] == f"next: whet evaluate {run}"


def test_a_folder_that_is_no_run_is_refused(tmp_path, call):
    code, _, said = call("watch", str(tmp_path / "nothing"))
    assert code != 0 and "no such folder" in said


def test_it_tells_what_comes_and_leaves_when_the_run_ends(run, call, monkeypatch):
    """The run goes on while the watch sleeps: a torn line, its rest, the last steps, and the lock is given back."""
    holding = ExitStack()

    def begin_a_line() -> None:
        write_steps(run, 21, 22, torn='{"kind": "eval", "step": 22, "lo')

    def end_the_line() -> None:
        with (run / "metrics.jsonl").open("a") as file:
            file.write('ss": 0.25, "seconds": 1.0}\n')
        write_steps(run, 23, 50)

    def finish() -> None:
        (run / "summary.json").write_text('{"status": "finished", "steps": 50}')
        holding.close()

    doings = iter((begin_a_line, lambda: None, end_the_line, finish))
    monkeypatch.setattr(watch.time, "sleep", lambda _seconds: next(doings, lambda: None)())
    with holding:
        holding.enter_context(locked(run))
        code, said, _ = call("watch", str(run))
    assert code == 0 and "step 22 of 50" in said and "step 22  loss 0.2500" in said
    assert "step 50 of 50" in said and said.splitlines()[-1] == "the run is finished"


def test_a_run_that_was_killed_ends_the_watch_too(run, call, monkeypatch):
    holding = ExitStack()
    monkeypatch.setattr(watch.time, "sleep", lambda _seconds: holding.close())
    with holding:
        holding.enter_context(locked(run))
        code, said, _ = call("watch", str(run))
    assert code == 0 and said.splitlines()[-1] == "the run is stopped"


def test_news_of_steps_stay_few(run):
    follower, news, lines = Follower(run), News(num_lines=5), []
    for last in range(20, 51):
        write_steps(run, last + 1, last + 1)
        follower.look()
        lines += [line for line in news.since(follower) if line.startswith("step")]
    assert 3 <= len(lines) <= 7
