"""The `whet` commands in a text, and whether the command line has their verbs and options.

Values are not judged: a page writes RECIPE or `[--nproc 8]` where a command has something of the reader's.
"""

from __future__ import annotations

import re
import shlex

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from whet.cli import verbs

_STARTS = re.compile(r"(?:^|[|;&(]|-m|\s)\s*whet\s+(?=[a-z])")
_ENDS = re.compile(r"\s#|[|;&>]|\s{2,}|$", re.MULTILINE)
_WORD = re.compile(r"[a-z][a-z0-9-]*")


def command_line() -> TyperGroup:
    """The whole command line, as typer has it."""
    app = typer.Typer()
    verbs.register(app)
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    return group


def commands_in(text: str) -> list[str]:
    """Every `whet ...` of a block or of a code span, each up to its comment, pipe or end."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    found = []
    for line in joined.splitlines():
        for start in _STARTS.finditer(line):
            rest = line[start.end() :]
            # brackets around choices hold a bar that ends nothing
            bare = re.sub(r"\[[^\]]*\]|'[^']*'|\"[^\"]*\"", lambda m: "_" * len(m[0]), rest)
            end = _ENDS.search(bare)
            found.append(rest[: end.start() if end else None].strip())
    return [command for command in found if command]


def fault_of(command: str, group: TyperGroup) -> str:
    """What the command line does not have of `command` (without its `whet`); empty when it has all of it."""
    words = words_of(command)
    verb: TyperGroup | TyperCommand = group
    while isinstance(verb, TyperGroup) and words:
        choices = [words[0]] if _WORD.fullmatch(words[0]) else words[0].strip("[]").split("|")
        if not all(_WORD.fullmatch(choice) for choice in choices):
            break
        if unknown := [choice for choice in choices if choice not in verb.commands]:
            return f"no verb {unknown[0]!r}"
        found = verb.commands[choices[0]]
        assert isinstance(found, TyperGroup | TyperCommand)
        verb, words = found, words[1:]
    options = {
        name for parameter in (*verb.params, *group.params) for name in (*parameter.opts, *parameter.secondary_opts)
    }
    options |= {"--help", "-h"}
    for word in words:
        name = word.strip("[].,").partition("=")[0]
        if re.fullmatch(r"--?[a-z][a-z-]*", name) and name not in options:
            return f"`whet {verb.name}` has no option {name}"
    return ""


def words_of(command: str) -> list[str]:
    """Shell words; a quote that is never closed (a span of prose) splits at blanks."""
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()
