"""`whet diff A B`: what differs between two runs or recipes, derived values included, and what came out of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whet.cli.completion import recipe_or_run_paths
from whet.cli.output import complain, say
from whet.cli.run_argument import check_run

if TYPE_CHECKING:
    from whet.report.run_diff import Difference, Side

_TITLES = {
    "recipe": "recipe",
    "plan": "derived (plan)",
    "data": "rows",
    "model": "base model",
    "environment": "environment",
}
_WIDEST = 60


def diff(
    first: Annotated[
        Path, typer.Argument(help="Run folder or recipe (YAML).", metavar="A", autocompletion=recipe_or_run_paths)
    ],
    second: Annotated[Path, typer.Argument(help="The other one.", metavar="B", autocompletion=recipe_or_run_paths)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show which values differ between A and B, and their results beside each other.

    Runs differ in settings, in what was derived from them, in rows (fingerprints), weights of the base, versions and
    machine; recipes in settings and in what is known of their plan. whet compare says which run answers better.
    """
    from whet.report.run_diff import find_differences

    sides = [_open(first), _open(second)]
    found = find_differences(*sides)
    if as_json:
        _print_json(sides, found)
        return
    for side in sides:
        for problem in side.problems:
            complain(f"note: {side.name}: {problem}")
    say(f"A  {sides[0].name}\nB  {sides[1].name}")
    for group, title in _TITLES.items():
        rows = [(each.name, each.first, each.second) for each in found if each.group == group]
        if rows:
            say(f"\n{title}\n{_table(rows)}")
    if not found:
        say("\nno value differs")
    names = list({**sides[0].results, **sides[1].results})
    if names:
        say("\nresults\n" + _table([(name, sides[0].results.get(name), sides[1].results.get(name)) for name in names]))


def _open(path: Path) -> Side:
    from whet.cli.explain import plan_before
    from whet.cli.recipe_file import load_any_recipe
    from whet.report.run_diff import side_of_recipe, side_of_run

    if path.is_dir():
        return side_of_run(check_run(path))
    recipe = load_any_recipe(path, (), complain)
    return side_of_recipe(recipe, str(path), plan_before(recipe))


def _table(rows: Sequence[tuple[str, Any, Any]]) -> str:
    cells = [("", "A", "B"), *((name, written(a), written(b)) for name, a, b in rows)]
    widths = [max(len(row[column]) for row in cells) for column in (0, 1)]
    return "\n".join(f"  {name:<{widths[0]}}  {a:<{widths[1]}}  {b}".rstrip() for name, a, b in cells)


def written(value: Any) -> str:
    """A value in a table: one line, six digits, cut where it is long."""
    import json

    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def _print_json(sides: Sequence[Side], found: Sequence[Difference]) -> None:
    import json
    from dataclasses import asdict

    document = {
        "a": sides[0].name,
        "b": sides[1].name,
        "differences": [asdict(each) for each in found],
        "results": {"a": dict(sides[0].results), "b": dict(sides[1].results)},
        "problems": [f"{side.name}: {problem}" for side in sides for problem in side.problems],
    }
    typer.echo(json.dumps(document, indent=1, default=str))
