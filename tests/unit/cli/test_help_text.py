"""Help is printed as it was written: what looks like markup, such as the brackets of an extra, is no markup."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from whet.cli import verbs

APP = typer.Typer()
verbs.register(APP)


def names(command: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every verb."""
    if not isinstance(command, TyperGroup):
        yield before
        return
    for word, inner in command.commands.items():
        yield from names(inner, (*before, word))


@pytest.mark.parametrize("words", tuple(names(get_command(APP))), ids="-".join)
def test_an_extra_in_a_help_text_keeps_its_brackets(words: tuple[str, ...]) -> None:
    said = CliRunner().invoke(APP, [*words, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert said.exit_code == 0, said.output
    assert "'whet'" not in said.output and "\\[" not in said.output
    if words[-1] in ("serve", "slurm"):
        assert f"'whet[{'serve' if words == ('serve',) else 'launch'}]'" in said.output
