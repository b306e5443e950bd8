"""`whet runs` and `whet diff`: nothing is removed unless told, and only what was listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whet.checkpoint.lock import locked
from whet.cli.runs import app

RECIPE = "name: a\noutput: runs/a\ndata: {train: [{source: a.jsonl}]}\n"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of two runs with leftovers, and a link that leads out of it."""
    for name in ("one", "two"):
        run = tmp_path / "runs" / name
        (run / "superseded-1").mkdir(parents=True)
        (run / "superseded-1" / "weights").write_bytes(b"x" * 2000)
        (run / "recipe.yaml").write_text(RECIPE)
        (run / "summary.json").write_text('{"status": "finished", "steps": 3}')
        (run / ".final.tmp").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (tmp_path / "runs" / "one" / "superseded-1" / "way out").symlink_to(outside)
    (tmp_path / "runs" / "one" / "superseded-2").symlink_to(outside)
    return tmp_path / "runs"


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_list_names_every_run(runs):
    lines = call("list", runs).splitlines()
    assert len(lines) == 3 and all("finished" in line for line in lines[1:])
    assert [Path(line["folder"]).name for line in json.loads(call("list", runs, "--json"))] == ["one", "two"]


def test_without_a_word_the_runs_of_this_folder_are_listed(runs, monkeypatch):
    monkeypatch.chdir(runs.parent)
    assert "runs/one" in call()
    monkeypatch.chdir(runs / "one")
    assert "no run in runs" in call()


def test_clean_lists_and_removes_nothing(runs):
    said = call("clean", runs)
    assert "superseded-1" in said and "--yes" in said
    call("clean", runs, "--yes", "--dry-run")
    assert (runs / "one" / "superseded-1" / "weights").is_file() and (runs / "two" / ".final.tmp").is_dir()


def test_clean_removes_what_it_listed_when_told_and_follows_no_link(runs):
    call("clean", runs, "--yes")
    assert not (runs / "one" / "superseded-1").exists() and not (runs / "two" / ".final.tmp").exists()
    assert (runs.parent / "outside" / "kept").read_text() == "kept"
    assert (runs / "one" / "superseded-2").is_symlink()
    assert "nothing to remove" in call("clean", runs)


def test_clean_leaves_a_working_run_alone(runs):
    with locked(runs / "one"):
        said = call("clean", runs, "--yes")
        assert "left alone" in said and "another run is working" in said
        assert "running" not in call("list", runs)  # it is finished: its lock is not asked for
    assert (runs / "one" / "superseded-1").exists() and not (runs / "two" / "superseded-1").exists()


def test_a_run_whose_lock_is_held_is_running(runs):
    (runs / "one" / "summary.json").unlink()
    (runs / "one" / "metrics.jsonl").write_text('{"kind": "step", "step": 2, "loss": 1.5}\n')
    with locked(runs / "one"):
        (line,) = (each for each in json.loads(call("list", runs, "--json")) if each["folder"].endswith("one"))
    assert (line["state"], line["steps"], line["last_loss"]) == ("running", 2, 1.5)


def test_show_ends_with_what_to_type_next(runs):
    said = call("show", runs / "one")
    assert said.splitlines()[-1] == f"next: whet evaluate {runs}/one"
    (runs / "one" / "summary.json").write_text('{"status": "interrupted", "steps": 1}')
    assert f"whet train {runs}/one/recipe.yaml" in call("show", runs / "one").splitlines()[-1]


def test_diff_of_recipes_shows_settings_and_steps_that_follow(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 20)
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    text = RECIPE.replace("a.jsonl", str(tmp_path / "a.jsonl"))
    first.write_text(text)
    second.write_text(text + "train: {epochs: 2}\n")
    found = json.loads(call("diff", first, second, "--json"))
    named = {(each["group"], each["name"]): (each["first"], each["second"]) for each in found["differences"]}
    assert named[("recipe", "train.epochs")] == (1.0, 2.0)
    assert named[("plan", "total_steps")] == (2, 4)
    assert "train.epochs" in call("diff", first, second)
    assert "no value differs" in call("diff", first, first)
