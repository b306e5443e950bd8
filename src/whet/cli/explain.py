"""`whet explain RECIPE`: every value, where it came from and what it does, those derived for this machine included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whet.cli.completion import recipe_or_run_paths
from whet.cli.output import complain, say
from whet.cli.run_argument import check_run
from whet.errors import RecipeError

if TYPE_CHECKING:
    from whet.recipe.provenance import Explained
    from whet.recipe.schema import Recipe

_NOW = "derived for this machine"


def explain(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="Recipe (YAML), or a run folder.", metavar="RECIPE|RUN", autocompletion=recipe_or_run_paths
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings to change, such as optim.lr=1e-4; without `=`, keys to explain alone, such as optim.",
            metavar="[KEY=VALUE|KEY]...",
        ),
    ] = None,
    defaults: Annotated[bool, typer.Option("--defaults/--no-defaults", help="Also values that nobody set.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say of each value where it came from and what it does.

    Values come from a line of the file, the command line or the default; what is derived from them (steps,
    accumulation, number format) is shown as it is on this machine, or as the run decided it if it has begun.
    """
    overrides = [change for change in changes or () if "=" in change]
    keys = [change for change in changes or () if "=" not in change]
    found = list(explain_file(recipe, overrides, complain))
    chosen = [each for each in found if not keys or any(_is_below(each.key, key) for key in keys)]
    if missing := [key for key in keys if not any(_is_below(each.key, key) for each in found)]:
        raise RecipeError(f"there is no key {missing[0]}", where=str(recipe), mend=_nearest(missing[0], found))
    chosen = [each for each in chosen if defaults or each.origin != "default"]
    if as_json:
        _print_json(chosen)
    else:
        say("\n".join(_lines(chosen)))


def explain_file(path: Path, overrides: Sequence[str], say: Callable[[str], None]) -> Iterator[Explained]:
    """Values and plan of a recipe file, or of the recipe in a run folder."""
    from whet.cli.recipe_file import load_any_recipe, text_of_recipe
    from whet.recipe.provenance import explain_values

    file = check_run(path) / "recipe.yaml" if path.is_dir() else path
    recipe = load_any_recipe(file, overrides, say)
    text, name = text_of_recipe(file)
    yield from explain_values(recipe, text, name, overrides)
    yield from _explain_plan(recipe, path if path.is_dir() else Path(recipe.output), has_changes=bool(overrides))


def _explain_plan(recipe: Recipe, run: Path, *, has_changes: bool) -> Iterator[Explained]:
    """The plan of a run that has begun with this recipe, or what is known of it before."""
    from whet.recipe.provenance import explain_plan

    decided = None if has_changes else _plan_of_run(recipe, run)
    if decided is not None:
        yield from explain_plan(decided, f"decided when the run began: {run / 'run_plan.json'}")
    else:
        yield from explain_plan(plan_before(recipe), _NOW)


def _plan_of_run(recipe: Recipe, run: Path) -> dict[str, Any] | None:
    import json

    from whet.recipe import load_recipe

    try:
        plan = json.loads((run / "run_plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_its_own = (run / "recipe.yaml").is_file() and load_recipe(run / "recipe.yaml") == recipe
    return plan if isinstance(plan, dict) and is_its_own else None


def plan_before(recipe: Recipe) -> dict[str, Any]:
    """What is known of the plan before the run begins; what the rows or the free memory decide is left out."""
    import dataclasses

    from whet.cli.preview import preview_run

    preview = preview_run(recipe)
    known: dict[str, Any] = {
        "world_size": preview.world_size,
        "global_batch": recipe.batch.global_size,
        **_of_machine(recipe),
    }
    if preview.plan is not None:
        plan = dataclasses.asdict(preview.plan)
        names = ["num_samples", "steps_per_epoch"]
        if recipe.train.fit_seconds is None:  # else how many steps there are is measured when the run begins
            names += ["total_steps", "epochs", "warmup_steps", "save_every", "eval_every"]
        known |= {name: plan[name] for name in names}
    if recipe.batch.micro_size != "auto":
        known |= {"micro_batch": preview.micro_batch, "accumulation": preview.accumulation}
    return known


def _of_machine(recipe: Recipe) -> dict[str, Any]:
    import os

    import torch

    from whet.estimate.hardware import usable_cores
    from whet.models.load import choose_dtype
    from whet.parallel.env import choose_device, read_env

    if recipe.train.device == "cuda" and not torch.cuda.is_available():
        return {"device": "cuda"}  # of another machine, of which no more is known
    device = choose_device(recipe.train.device, read_env())
    dtype = str(choose_dtype(recipe.model.dtype, device)).removeprefix("torch.")
    threads = recipe.train.threads or int(os.environ.get("OMP_NUM_THREADS", "0")) or usable_cores()
    known = {"device": device.type, "compute_dtype": dtype}
    return known | ({"num_threads": threads} if device.type == "cpu" else {})


def _is_below(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(f"{prefix}.")


def _nearest(key: str, found: Sequence[Explained]) -> str:
    import difflib

    near = difflib.get_close_matches(key, [each.key for each in found], n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "whet recipe reference lists all keys"


def _lines(found: Sequence[Explained]) -> Iterator[str]:
    import textwrap

    for each in found:
        yield f"{each.key} = {_written(each.value)}  ({each.origin})"
        yield from textwrap.wrap(each.meaning, width=112, initial_indent="    ", subsequent_indent="    ")


def _written(value: Any) -> str:
    import json

    if isinstance(value, str):
        return value
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _print_json(found: Sequence[Explained]) -> None:
    import json
    from dataclasses import asdict

    typer.echo(json.dumps([asdict(each) for each in found], indent=1))
