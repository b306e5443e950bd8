"""The commands of docs/seeds-line-by-line.md: all of them typed (long), and what they are made of looked up."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer
from seed_lines import ROOT, SEEDS, read_lines, tried

from whet.cli.verbs import register

ALL_LINES = [(name, line) for name in SEEDS for line in read_lines(name)]
SCRIPTS = (
    "train.py",
    "train_fiqa_peft.py",
    "evaluate_fiqa.py",
    "merge_adapter.py",
    "inference.py",
    "validate_config.py",
)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_command_of_the_page_does_what_its_line_says(seed):
    if not os.environ.get("WHET_TEST_DATA"):
        pytest.skip("WHET_TEST_DATA is not set: no model and rows")
    done = subprocess.run(
        [sys.executable, "tests/support/seed_lines.py", "--only", seed],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def typed_options(command: str, after: str) -> list[str]:
    """The long options that stand behind `after` in its own command."""
    tail = re.split(r"[|;&]", command.split(after, 1)[1])[0]
    return re.findall(r"(?<!\S)--[a-z][a-z_-]*", tail)


def test_verbs_and_options_of_whet_exist():
    app = typer.Typer()
    register(app)
    whet = typer.main.get_command(app)
    for _, line in ALL_LINES:
        for command in (line["command"], tried(line)):
            for verb in re.findall(r"\bwhet ((?:launch |recipe )?[a-z]+)", command):
                known = options_of(whet, verb.split())
                missing = [name for name in typed_options(command, f"whet {verb}") if name not in known]
                assert not missing, f"whet {verb} has no {', '.join(missing)}"


def options_of(command: Any, verb: list[str]) -> set[str]:
    for word in verb:
        assert word in command.commands, f"there is no whet {' '.join(verb)}"
        command = command.commands[word]
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def test_options_of_the_scripts_exist():
    for script in SCRIPTS:
        own = (ROOT / script).read_text(encoding="utf-8")
        for module in ("fiqa_project", "fiqa_evaluation", "validate_config"):
            if f"whet.cli.{module}" in own:
                own += (ROOT / "src" / "whet" / "cli" / f"{module}.py").read_text(encoding="utf-8")
        for _, line in ALL_LINES:
            if f" {script}" in f" {line['command']}".replace("...", ""):
                for option in typed_options(line["command"], script):
                    assert option in own or option[2:].replace("-", "_") in own, f"{script} has no {option}"


def test_files_that_the_lines_name_exist():
    for _, line in ALL_LINES:
        for word in shlex.split(line["command"]):
            if re.match(r"(configs|recipes|examples|accelerate_config)/", word):
                assert (ROOT / word).is_file(), word
            if re.fullmatch(r"\w+\.py", word) and not word.startswith("snippet_"):
                assert (ROOT / word).is_file(), word


def test_every_line_says_what_came_of_it():
    for name, line in ALL_LINES:
        assert {"seed", "command", "outcome"} <= set(line) <= {
            "seed", "command", "outcome", "tried", "small", "says", "code"
        }, f"{name}: {line['seed']}"  # fmt: skip
