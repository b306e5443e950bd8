"""`whet runs list | show | diff | clean`: what has been trained here, how far it is, and what can be removed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whet.cli import diff as diff_verb
from whet.cli.completion import run_paths
from whet.cli.output import complain, say
from whet.cli.run_argument import check_run

if TYPE_CHECKING:
    from whet.report.run_list import Leftover, RunLine

app = typer.Typer(help="List, show, compare and tidy up run folders.", invoke_without_command=True)
app.command()(diff_verb.diff)

_RUNS = Path("runs")
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.callback()
def default(context: typer.Context) -> None:
    """List, show, compare and tidy up run folders; without a word behind it, list those in runs/."""
    if context.invoked_subcommand is None:
        list_runs()


@app.command(name="list")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Folder to look below.", metavar="[FOLDER]")] = _RUNS,
    as_json: Json = False,
) -> None:
    """List the runs below FOLDER, the latest last: state, steps, last loss, verdict, size."""
    lines = sorted((_describe(run) for run in _find(folder)), key=lambda line: line.changed)
    if as_json:
        _print_json([_document(line) for line in lines])
        return
    if not lines:
        say(f"no run in {folder}; whet init writes a recipe, whet train begins a run")
        return
    say(_table(lines))


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN", autocompletion=run_paths)],
    as_json: Json = False,
) -> None:
    """Say what a run does, how far it is, what came out, and what to type next."""
    from whet.report.run_diff import side_of_run

    line, side = _describe(check_run(run)), side_of_run(run)
    leftovers = _leftovers([run], checkpoints=False, old_runs=False)
    if as_json:
        _print_json(_document(line) | {"results": dict(side.results), "plan": dict(side.groups["plan"]),
                                       "leftovers": [str(each.path) for each in leftovers]})  # fmt: skip
        return
    say(_table([line]))
    for sentence in _sentences(run):
        say(sentence)
    for name, value in side.results.items():
        say(f"  {name}: {diff_verb.written(value)}")
    if leftovers:
        say(f"{len(leftovers)} leftovers, {_size(sum(each.num_bytes for each in leftovers))}: whet runs clean {run}")
    say(f"next: {_next_command(line)}")


@app.command()
def clean(
    folder: Annotated[
        Path, typer.Argument(help="Run folder, or a folder of runs.", metavar="[FOLDER]", autocompletion=run_paths)
    ] = _RUNS,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove what is listed.")] = False,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Also checkpoint-N of finished runs (checkpoint-best stays).")
    ] = False,
    old_runs: Annotated[
        bool, typer.Option("--old-runs", help="Also whole runs that train --fresh moved aside (NAME.old-N).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list; also what happens without --yes.")] = False,
    as_json: Json = False,
) -> None:
    """List what no run needs any more, and with --yes remove it: superseded-N folders and drafts of broken writes.

    A run that is working is left alone, and symbolic links are not followed.
    """
    found = _leftovers(_find(folder), checkpoints=checkpoints, old_runs=old_runs)
    is_removing = yes and not dry_run
    removed = _remove(found) if is_removing else []
    if as_json:
        _print_json([{"path": str(each.path), "kind": each.kind, "num_bytes": each.num_bytes,
                      "is_removed": each in removed} for each in found])  # fmt: skip
        return
    for each in removed if is_removing else found:
        say(f"{'removed ' if is_removing else ''}{each.path}  {each.kind}, {_size(each.num_bytes)}")
    total = _size(sum(each.num_bytes for each in (removed if is_removing else found)))
    if is_removing:
        say(f"{total} are free again")
    elif found:
        say(f"{total} in all; nothing was removed: the same command with --yes removes it")
    else:
        say(f"nothing to remove in {folder}")


def _find(folder: Path) -> list[Path]:
    from whet.errors import StorageError
    from whet.report.run_list import find_runs

    if not folder.is_dir():
        if folder == _RUNS:
            return []
        raise StorageError("is no folder", where=str(folder), mend="name a run folder, or a folder of runs")
    return find_runs(folder)


def _describe(run: Path) -> RunLine:
    from whet.checkpoint.lock import is_held
    from whet.report.run_list import describe_run, is_finished

    # a finished run needs no look at its lock
    return describe_run(run, is_held=not is_finished(run) and is_held(run))


def _leftovers(runs: Sequence[Path], *, checkpoints: bool, old_runs: bool) -> list[Leftover]:
    from whet.report.run_list import find_leftovers

    return [each for run in runs for each in find_leftovers(run, checkpoints=checkpoints, old_runs=old_runs)]


def _remove(found: Sequence[Leftover]) -> list[Leftover]:
    """Remove run by run, each under its lock; what a working run holds stays and is told."""
    import shutil
    from itertools import groupby

    from whet.checkpoint.lock import locked
    from whet.errors import StorageError

    removed = []
    for run, leftovers in groupby(found, key=lambda each: each.run):
        try:
            with locked(run):
                for each in leftovers:
                    if each.path.is_dir() and not each.path.is_symlink():
                        shutil.rmtree(each.path)
                    else:
                        each.path.unlink(missing_ok=True)
                    removed.append(each)
        except StorageError as error:
            complain(f"left alone: {error}")
        except OSError as error:
            complain(f"left alone: {run}: {error.strerror or error}")
    return removed


def _sentences(run: Path) -> Iterator[str]:
    from whet.errors import RecipeError
    from whet.recipe import load_recipe
    from whet.recipe.explain import explain_recipe

    try:
        yield from explain_recipe(load_recipe(run / "recipe.yaml"))
    except RecipeError as error:
        yield f"its recipe cannot be read: {error}"


def _next_command(line: RunLine) -> str:
    import shlex

    run = shlex.quote(str(line.folder))
    recipe = shlex.quote(str(line.folder / "recipe.yaml"))
    if line.state == "running":
        return f"whet watch {run}"
    if line.state != "finished":
        return f"whet train {recipe}  (continues it)"
    return f"whet evaluate {run}" if line.verdict is None else f"whet compare {run}"


def _table(lines: Sequence[RunLine]) -> str:
    head = ("run", "state", "steps", "last loss", "verdict", "size", "changed")
    rows = [head, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)  # fmt: skip


def _cells(line: RunLine) -> tuple[str, ...]:
    total = f" of {line.total_steps:,}" if line.total_steps is not None else ""
    return (
        str(line.folder),
        line.state,
        f"{line.steps:,}{total}" if line.steps is not None else f"0{total}",
        f"{line.last_loss:.4g}" if line.last_loss is not None else "-",
        line.verdict or "-",
        _size(line.num_bytes),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(line.changed)),
    )


def _size(num_bytes: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes} B"


def _document(line: RunLine) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(line) | {"folder": str(line.folder)}


def _print_json(document: Any) -> None:
    import json

    typer.echo(json.dumps(document, indent=1))
