"""Somebody with a CSV of 200 questions and answers: init, inspect, train, compare and the rest, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def write_csv(path: Path) -> None:
    """200 rows as a spreadsheet writes them: a byte-order mark, capital letters, commas in quotes, a spare column."""
    lines = ["Id,Question,Answer"]
    lines += [f'{n},What is {n} plus {n * n}?,"It is {n + n * n}, and not {n}."' for n in range(200)]
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")


def test_from_a_csv_to_a_verdict_with_nothing_but_the_commands_that_were_printed(workplace):
    write_csv(workplace.folder / "faq.csv")
    code, said = workplace.run("init", "--data", "faq.csv", "--model", str(workplace.model), "--minutes", "1", "--yes")
    assert code == 0, said
    assert "question from the column 'Question'" in said and "not used: Id" in said
    typed = [line.split()[1:3] for line in said.splitlines() if line.startswith("  whet ")]
    assert typed == [["inspect", "faq.yaml"], ["train", "faq.yaml"], ["compare", "runs/faq"], ["chat", "runs/faq"]]

    code, said = workplace.run("train", "faq.yaml", "--dry-run")
    assert code == 0 and "training would begin at step 0" in said, said
    assert not (workplace.folder / "runs").exists()
    for command in typed[:3]:
        code, said = workplace.run(*command)
        assert code == 0, said
        if command[0] == "inspect":
            assert "130 samples" in said and "same question" in said
    assert "faq" in said and any(verdict in said for verdict in ("better", "worse", "not distinguishable"))
    look_back(workplace)


def look_back(workplace) -> None:
    """What can be asked of the finished run."""
    code, said = workplace.run("explain", "runs/faq", "--json")
    assert code == 0, said
    told = {each["key"]: each for each in json.loads(said)}
    assert told["plan.total_steps"]["value"] > 0 and "run_plan.json" in told["plan.total_steps"]["origin"]
    code, said = workplace.run("runs", "list", "runs", "--json")
    (line,) = json.loads(said)
    assert (line["state"], line["steps"]) == ("finished", told["plan.total_steps"]["value"])
    assert line["verdict"] in ("better", "worse", "not distinguishable")
    code, said = workplace.run("diff", "faq.yaml", "runs/faq", "--json")
    assert code == 0 and json.loads(said)["differences"] == [], said
    code, said = workplace.run("train", "faq.yaml", "-q")
    assert code == 0 and "was finished before" in said and "answered before" not in said
