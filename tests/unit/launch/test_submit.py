"""Other schedulers' programs are run as lists of words, and their exit codes are passed on."""

from __future__ import annotations

import shlex
import sys

import pytest

from whet.errors import RecipeError
from whet.launch.submit import command_text, run_command, run_with_file


def test_a_command_is_printed_as_one_would_type_it():
    words = ["docker", "run", "--rm", "--env", "A B", "whet:gpu", "python"]
    assert (
        command_text(words, heads=["whet:gpu"]) == "docker run \\\n    --rm \\\n    --env 'A B' \\\n    whet:gpu python"
    )
    assert shlex.split(command_text(words).replace("\\\n", "")) == words


def test_the_exit_code_of_the_container_is_that_of_the_command():
    assert run_command([sys.executable, "-c", "raise SystemExit(75)"]) == 75


def test_a_program_that_is_not_there_is_a_sentence():
    with pytest.raises(RecipeError, match="no-such-program is not on this machine"):
        run_command(["no-such-program"])


def test_a_file_is_there_while_its_command_runs():
    check = "import sys, pathlib; raise SystemExit(pathlib.Path(sys.argv[1]).read_text() != 'kind: Job')"
    assert run_with_file(lambda path: [sys.executable, "-c", check, path], "kind: Job", ".yaml") == 0
