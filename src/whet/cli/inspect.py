"""`whet inspect RECIPE`: what the model will see, token by token, and what is known of the data before training."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.cli.completion import recipe_paths
from whet.cli.output import put, say

if TYPE_CHECKING:
    from whet.inspection import Inspection

_WIDTH_OF_FILES = 120


def inspect(
    recipe: Annotated[Path, typer.Argument(help="Recipe (YAML).", metavar="RECIPE", autocompletion=recipe_paths)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings to change, such as data.max_length=512.", metavar="[KEY=VALUE]..."),
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="How many samples to show.")] = 3,
    row: Annotated[
        str | None, typer.Option(help="Show this sample: its id, or its number from 1.", metavar="ID_OR_NUMBER")
    ] = None,
    shown_set: Annotated[
        str, typer.Option("--set", help="Whose samples: train, validation or the name of an evaluation set.")
    ] = "train",
    ids: Annotated[bool, typer.Option("--ids", help="One line per token, with position, id and role.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Where to write the page (default: inspect.html in the run folder).")
    ] = None,
    no_html: Annotated[bool, typer.Option("--no-html", help="Write no page.")] = False,
) -> None:
    """Show what the model will see: taught tokens, lengths, dropped rows, overlap and packing. Nothing is trained.

    Only the tokenizer is loaded. Taught tokens are green in a terminal and stand in [[...]] elsewhere (or with
    NO_COLOR set). The page also shows the passes of the first optimizer step, documents end to end.
    """
    from whet.cli.quiet import quiet_libraries
    from whet.cli.recipe_file import load_any_recipe
    from whet.train.inspect import build_inspection

    quiet_libraries()
    tell = _say_nothing if as_json else say
    settings = load_any_recipe(recipe, overrides or (), tell)
    found = build_inspection(settings, shown_set=shown_set, num_rows=rows, row=row, tell=tell)
    if as_json:
        _print_json(found)
    else:
        _print_text(found, with_ids=ids)
    if not no_html:
        from whet.report.token_view import FILE_NAME, write_inspection

        path = html or Path(settings.output) / FILE_NAME
        write_inspection(found, path)
        if not as_json:
            say(f"\npage: {path}")


def _print_text(inspection: Inspection, *, with_ids: bool) -> None:
    import shutil

    from whet.cli.inspect_text import inspection_text

    for note in inspection.notes:
        say(note)
    width = shutil.get_terminal_size().columns if _is_terminal() else _WIDTH_OF_FILES
    with_colour = _is_terminal() and not os.environ.get("NO_COLOR")
    # with colours; what rows hold was made visible there
    put(inspection_text(inspection, with_colour=with_colour, with_ids=with_ids, width=width).rstrip("\n") + "\n")


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _print_json(inspection: Inspection) -> None:
    import json
    from dataclasses import asdict

    document = asdict(inspection)
    for each, view in zip(document["passes"], inspection.passes, strict=True):
        each["documents"] = [sample.id for sample in view.documents]
    say(json.dumps(document, indent=1))


def _say_nothing(sentence: str = "") -> None:
    """`--json` prints one document and nothing else."""
