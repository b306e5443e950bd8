"""`whet recipe show | check | import | reference`: what a recipe means, whether it can be run, every key there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.cli.completion import recipe_paths
from whet.cli.output import complain, put, put_text, say

if TYPE_CHECKING:
    from whet.cli.preview import Preview

app = typer.Typer(help="Show, check and document recipes.", no_args_is_help=True)

REFERENCE_PAGE = "recipe.md"
REFERENCE_SCHEMA = "recipe.schema.json"


@app.command()
def show(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML).", autocompletion=recipe_paths)],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes such as optim.lr=1e-4.")] = None,
    world_size: Annotated[int, typer.Option(min=1, help="Processes that train together, one per GPU.")] = 1,
    rows: Annotated[int | None, typer.Option(min=1, help="Training rows, where no local file tells it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Print the run that a recipe means: steps, warm-up, trainable weights, disk. Nothing is downloaded."""
    from whet.cli.preview import preview_json, preview_run
    from whet.cli.recipe_file import load_any_recipe

    loaded = load_any_recipe(recipe, overrides or (), complain)
    preview = preview_run(loaded, world_size=world_size, num_rows=rows)
    if as_json:
        put(json.dumps(preview_json(preview), indent=2) + "\n")
    else:
        print_preview(preview)


@app.command()
def check(
    recipes: Annotated[list[Path], typer.Argument(help="Recipe files (YAML).", autocompletion=recipe_paths)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Load recipes and print ok or every problem; exit code 2 when one has problems."""
    from whet.errors import RecipeError
    from whet.recipe import load_recipe

    problems: dict[str, list[str]] = {}
    for path in recipes:
        try:
            load_recipe(path)
        except RecipeError as error:
            problems[str(path)] = str(error).splitlines()
            if not as_json:
                complain(str(error))
        else:
            problems[str(path)] = []
            if not as_json:
                say(f"ok  {path}")
    if as_json:
        say(json.dumps(problems, indent=1))
    if num_bad := sum(map(bool, problems.values())):
        raise RecipeError(f"{num_bad} of {len(recipes)} recipes cannot be run")


@app.command(name="import")
def import_foreign(
    file: Annotated[
        Path,
        typer.Argument(
            help="YAML of lora-ns, TRL or Hugging Face, Axolotl or LLaMA-Factory.", autocompletion=recipe_paths
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="Recipe to write; without it, printed.")] = None,
    world_size: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that the file's batch per device is meant for; fixes the global batch."),
    ] = None,
    accelerate_config: Annotated[
        Path | None, typer.Option(help="Accelerate config whose num_processes says it instead.")
    ] = None,
) -> None:
    """Turn another tool's YAML into a recipe, with what was mapped, what has no effect and what could not be mapped.

    The three lists stand as a comment in the recipe and are printed to standard error.
    """
    from whet.atomic import write_text
    from whet.cli.recipe_file import import_file

    imported = import_file(file, world_size=world_size, accelerate_config=accelerate_config)
    for line in imported.lines():
        complain(line)
    if output is None:
        put_text(imported.text(str(file)))
        return
    write_text(output, imported.text(str(file)))
    say(f"wrote {output}")


@app.command()
def reference(
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema instead of the page.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write recipe.md and recipe.schema.json to.")] = None,
) -> None:
    """Print every key of a recipe with its type, default and meaning, or write page and schema to a folder."""
    from whet.atomic import write_text

    if output is None:
        put(reference_files()[REFERENCE_SCHEMA if schema else REFERENCE_PAGE])
        return
    for name, text in reference_files().items():
        write_text(output / name, text)
        say(f"wrote {output / name}")


def reference_files() -> dict[str, str]:
    """File name -> text of the generated reference."""

    from whet.recipe.explain import json_schema, reference_markdown

    return {REFERENCE_PAGE: reference_markdown(), REFERENCE_SCHEMA: json.dumps(json_schema(), indent=2) + "\n"}


def print_preview(preview: Preview) -> None:
    """A table in a terminal, plain aligned lines anywhere else."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from whet.cli.preview import preview_lines

    console = Console()
    lines = list(preview_lines(preview))
    if not console.is_terminal:
        width = max(len(label) for label, _ in lines)
        for label, value in lines:
            say(f"{label:<{width}}  {value}".rstrip())
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in lines:
        table.add_row(Text(label, style="yellow" if label == "unknown" else ""), Text(value))
    console.print(table)
