"""The commands of docs/seeds-line-by-line.md: all of them typed (long), and what they are made of looked up."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from seed_lines import ROOT, SEEDS, read_lines, tried
from typer.testing import CliRunner

from whet.cli.main import app

ALL_LINES = [(name, line) for name in SEEDS for line in read_lines(name)]
WHET_LINES = [line for _, line in ALL_LINES if "whet " in line["command"]]
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
        [sys.executable, "tests/docs/seed_lines.py", "--only", seed],
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


@pytest.mark.parametrize("line", WHET_LINES, ids=lambda line: line["command"][:60])
def test_verbs_and_options_of_whet_exist(line):
    for command in (line["command"], tried(line)):
        for verb in re.findall(r"\bwhet ((?:launch |recipe )?[a-z]+)", command):
            told = help_of(*verb.split())
            missing = [name for name in typed_options(command, f"whet {verb}") if name not in told]
            assert not missing, f"whet {verb} has no {', '.join(missing)}"


def help_of(*verb: str) -> str:
    result = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == 0, f"there is no whet {' '.join(verb)}"
    return result.output


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
    assert isinstance(app, typer.Typer)
    assert (Path(__file__).parent / "seed_lines").is_dir()
