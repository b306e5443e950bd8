"""`--json`: standard output is one JSON document, whatever a verb says on its way; with an error it is empty."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import typer
from typer.testing import CliRunner
from workplace import write_rows

from whet.cli import main, verbs

pytestmark = pytest.mark.slow

FOR_EYES = {
    "init", "watch", "ui", "chat", "serve", "recipe import", "recipe reference", "launch local", "launch slurm",
    "launch docker", "launch kubernetes", "launch skypilot",
}  # fmt: skip
"""verbs that talk with somebody, or whose output is another tool's file"""


def names_of(app: typer.Typer, prefix: str = "") -> dict[str, Callable[..., Any]]:
    """Every verb and its function."""
    found = {
        f"{prefix}{command.name or command.callback.__name__.replace('_', '-')}": command.callback
        for command in app.registered_commands
    }
    for group in app.registered_groups:
        found |= names_of(group.typer_instance, f"{group.name} ")
    return found


def test_every_other_verb_answers_programs(monkeypatch):
    monkeypatch.setattr(main, "app", typer.Typer())
    verbs.register(main.app)
    all_verbs = names_of(main.app)
    lacking = set()
    for name, callback in all_verbs.items():
        one = typer.Typer()
        one.command()(callback)
        if "--json" not in CliRunner().invoke(one, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output:
            lacking.add(name)
    assert lacking == FOR_EYES
    assert all_verbs.keys() > FOR_EYES


@pytest.fixture
def ask(workplace):
    """The document that `whet ARGUMENTS --json` prints, and what it says beside it."""

    def run(*arguments: str, code: int = 0) -> tuple[Any, str]:
        process = workplace.start(*arguments, "--json", stderr=subprocess.PIPE)
        out, said = process.communicate(timeout=240)
        assert process.returncode == code, said
        return json.loads(out) if out else None, said

    return run


def test_a_run_and_what_follows_it_tell_programs_what_they_tell_eyes(workplace, ask):
    others = [{"question": f"What is {n} less {n}?", "answer": "It is 0."} for n in range(8)]
    write_rows(workplace.folder / "held.jsonl", others)
    held = {"name": "held", "source": {"source": "held.jsonl", "split": "all"}, "max_new_tokens": 4}
    workplace.write_recipe(evaluate=[held])
    planned, said = ask("train", str(workplace.recipe), "--dry-run")
    assert planned["total_steps"] == 8 and "nothing was trained" in said
    trained, said = ask("train", str(workplace.recipe))
    assert (trained["status"], trained["steps"], trained["was_finished_before"]) == ("finished", 8, False)
    assert [each["dataset"] for each in trained["comparisons"]] == ["held"] and "step 8/8" in said
    run = trained["run"]
    answered, _ = ask("evaluate", run)
    assert answered["overall"] == trained["overall"] and answered["comparisons"][0]["sentences"][0] in said
    assert answered["report"] == trained["report"] == f"{run}/report.html"
    again, said = ask("reproduce", run, "--steps", "2")
    assert (again["num_steps"], again["is_bit_for_bit"], again["are_weights_same"]) == (2, True, None)
    assert again["sentences"][0] in said
    merged, said = ask("merge", run)
    assert merged["proof"]["status"] == "proved" and merged["format"] == "hf" and "written: " in said
    listed, said = ask("push", merged["written"], "somebody/tiny", "--dry-run")
    assert listed["files"]["model.safetensors"] > 1000 and listed["address"] is None and "nothing was sent" in said


def test_rows_prepared_for_a_program(workplace, ask):
    found, said = ask("prepare", str(workplace.recipe))
    assert sum(found["files"].values()) == found["num_rows"] == 26 and "wrote " in said
    (file,) = found["files"]
    assert len((workplace.folder / file).read_text().splitlines()) == 26


def test_an_error_leaves_nothing_for_the_program(workplace, ask):
    workplace.write_recipe(data={"train": [{"source": "missing.jsonl"}]})
    found, said = ask("train", str(workplace.recipe), code=3)
    assert found is None and "missing.jsonl" in said
