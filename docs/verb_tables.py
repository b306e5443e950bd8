"""The reference of the verbs, from the command line itself: `<!-- verbs -->` of docs/verbs.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperArgument, TyperGroup
from typer.main import get_command

from whet.cli import verbs

_EVERYWHERE = "--help"


def verb_reference() -> str:
    """A heading, what it does, its options: for every verb."""
    app = typer.Typer()
    verbs.register(app)
    return "\n\n".join(_section(name, command) for name, command in _verbs("whet", get_command(app)))


def _verbs(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """(`whet runs show`, its command), for groups all of their verbs."""
    if isinstance(command, TyperGroup):
        for word, inner in command.commands.items():
            yield from _verbs(f"{name} {word}", inner)
    else:
        yield name, command


def _section(name: str, command: Any) -> str:
    words = [_argument(each) for each in command.params if isinstance(each, TyperArgument)]
    help_text = re.sub(r"\s+", " ", (command.help or "").replace("\\[", "[")).strip()
    rows = [_row(each) for each in command.params if not isinstance(each, TyperArgument)]
    rows = [row for row in rows if row]
    table = ["", "| option | what it does |", "|---|---|", *rows] if rows else []
    usage = " ".join([name, *words])
    return "\n".join([f"### {name.removeprefix('whet ')}", "", "```text", usage, "```", "", _cell(help_text), *table])


def _argument(argument: Any) -> str:
    name = (argument.metavar or argument.name).strip("[]{}").upper()
    name = re.sub(r"\W*\.\.\.$", "", name).strip("[]{}")
    many = "..." if argument.nargs == -1 else ""
    return f"{name}{many}" if argument.required else f"[{name}{many}]"


def _row(option: Any) -> str:
    names = [name for name in (*option.opts, *option.secondary_opts) if name != _EVERYWHERE]
    if not names:
        return ""
    value = "" if option.is_flag else f" {option.metavar or names[0].strip('-').upper()}"
    names_and_value = f"{', '.join(names)}{value}".replace("|", "/")  # a bar would end the cell
    return f"| `{names_and_value}` | {_cell(option.help or '')} |"


def _cell(text: str) -> str:
    """Text in a table or paragraph of Markdown, in which the names of keys stand as they are."""
    return text.replace("\\[", "[").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
