"""Somebody with a CSV of questions and answers: init, inspect, train, compare and the rest, as typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from whet.cli.diff import diff
from whet.cli.explain import explain
from whet.cli.runs import list_runs

pytestmark = pytest.mark.slow


def write_csv(path: Path) -> None:
    """40 rows as a spreadsheet writes them: a byte-order mark, capital letters, commas in quotes, a spare column."""
    lines = ["Id,Question,Answer"]
    lines += [f'{n},What is {n} plus {n * n}?,"It is {n + n * n}, and not {n}."' for n in range(40)]
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")


def test_from_a_csv_to_a_verdict_with_nothing_but_the_commands_that_were_printed(workplace, monkeypatch):
    write_csv(workplace.folder / "faq.csv")
    code, said = workplace.run("init", "--data", "faq.csv", "--model", str(workplace.model), "--minutes", "1", "--yes")
    assert code == 0, said
    assert "question from the column 'Question'" in said and "not used: Id" in said
    typed = [line.split()[1:3] for line in said.splitlines() if line.startswith("  whet ")]
    assert typed == [["inspect", "faq.yaml"], ["train", "faq.yaml"], ["compare", "runs/faq"], ["chat", "runs/faq"]]

    for command in typed[:3]:
        code, said = workplace.run(*command)
        assert code == 0, said
        if command[0] == "inspect":
            assert "25 samples" in said and "same question" in said
        if command[0] == "train":
            assert "next: whet chat runs/faq" in said
    assert "faq" in said and any(verdict in said for verdict in ("better", "worse", "not distinguishable"))
    monkeypatch.chdir(workplace.folder)
    look_back()


def look_back() -> None:
    """What can be asked of the finished run."""
    told = {each["key"]: each for each in answer_of(explain, "runs/faq")}
    steps = told["plan.total_steps"]
    assert steps["value"] > 0 and "run_plan.json" in steps["origin"]
    (line,) = answer_of(list_runs, "runs")
    assert (line["state"], line["steps"]) == ("finished", steps["value"])
    assert line["verdict"] in ("better", "worse", "not distinguishable")
    assert answer_of(diff, "faq.yaml", "runs/faq")["differences"] == []


def answer_of(verb: Callable[..., None], *arguments: str) -> Any:
    """What `whet VERB ... --json` prints, asked in this process."""
    app = typer.Typer()
    app.command()(verb)
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)
