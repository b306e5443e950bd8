"""Runs below a folder: state, size, and what could be removed; links are never followed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from whet.report.run_list import describe_run, find_leftovers, find_runs, is_run, size_of


def write_run(folder: Path, *, status: str | None = "finished", steps: int = 3) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: a\n")
    (folder / "run_plan.json").write_text('{"total_steps": 9}')
    lines = [{"kind": "step", "step": n, "loss": 1 / n} for n in range(1, steps + 1)]
    lines.append({"kind": "eval", "step": steps, "loss": 7.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if status:
        (folder / "summary.json").write_text(json.dumps({"status": status}))
    return folder


def test_runs_are_found_at_any_depth_but_not_within_runs_and_not_behind_links(tmp_path):
    inner = write_run(tmp_path / "runs" / "smollm2" / "fiqa")
    outer = write_run(tmp_path / "runs" / "demo")
    write_run(outer / "checkpoint-3")
    write_run(tmp_path / "elsewhere")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "runs" / "rows").mkdir()
    assert find_runs(tmp_path / "runs") == [outer, inner]
    assert find_runs(outer) == [outer]
    assert not is_run(tmp_path / "runs" / "rows")


@pytest.mark.parametrize(
    ("status", "is_held", "state"),
    [("finished", False, "finished"), ("interrupted", False, "interrupted"), (None, False, "stopped"),
     (None, True, "running"), ("interrupted", True, "running"), ("nonsense", False, "stopped")],
)  # fmt: skip
def test_the_state_follows_from_lock_and_summary(tmp_path, status, is_held, state):
    line = describe_run(write_run(tmp_path / "run", status=status), is_held=is_held)
    assert (line.state, line.steps, line.total_steps, line.last_loss) == (state, 3, 9, pytest.approx(1 / 3))


def test_a_log_that_is_being_written_is_read_from_its_end(tmp_path):
    run = write_run(tmp_path / "run", steps=5000)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    assert describe_run(run, is_held=True).steps == 5000


def test_damaged_files_make_no_error(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "summary.json").write_bytes(b"\xff{")
    (run / "run_plan.json").write_text("[]")
    (run / "evaluations" / "a").mkdir(parents=True)
    (run / "evaluations" / "a" / "comparison.json").write_text("{}")
    line = describe_run(run, is_held=False)
    assert (line.state, line.total_steps, line.verdict) == ("stopped", None, None)


def test_the_size_counts_a_link_as_itself_and_a_file_with_two_names_once(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "a").write_bytes(b"x" * 1000)
    os.link(run / "a", run / "b")
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    (run / "link").symlink_to(tmp_path / "big")
    assert 1000 <= size_of(run) < 2000


def test_leftovers_are_what_was_set_aside_or_cut_off_and_nothing_else(tmp_path):
    run = write_run(tmp_path / "run")
    for name in (
        "superseded-1",
        "superseded-x",
        "checkpoint-3",
        "checkpoint-best",
        ".checkpoint-4.77.tmp",
        "notes.tmp",
    ):
        (run / name).mkdir()
        (run / name / "weights").write_bytes(b"x" * 10)
    (run / "evaluations").mkdir()
    (run / "evaluations" / ".base.jsonl.abc.tmp").write_text("torn")
    (run / "superseded-2").symlink_to(tmp_path)
    (run / ".draft.tmp").symlink_to(tmp_path)
    found = {(each.path.relative_to(run).as_posix(), each.kind) for each in find_leftovers(run)}
    assert found == {
        ("superseded-1", "superseded"),
        (".checkpoint-4.77.tmp", "unfinished write"),
        ("evaluations/.base.jsonl.abc.tmp", "unfinished write"),
    }
    more = {each.path.name for each in find_leftovers(run, checkpoints=True)}
    assert "checkpoint-3" in more and "checkpoint-best" not in more


def test_checkpoints_of_a_run_that_is_not_finished_are_no_leftovers(tmp_path):
    run = write_run(tmp_path / "run", status="interrupted")
    (run / "checkpoint-3").mkdir()
    assert find_leftovers(run, checkpoints=True) == []


def test_a_run_that_was_moved_aside_is_a_leftover_only_when_asked_for(tmp_path):
    run = write_run(tmp_path / "demo.old-1")
    assert find_leftovers(run) == []
    assert [(each.path, each.kind) for each in find_leftovers(run, old_runs=True)] == [(run, "old run")]
    assert find_leftovers(write_run(tmp_path / "demo"), old_runs=True) == []
