"""The guides' `validate_config.py`: what a configuration means and whether it can be run, and a checkpoint's answers.

A run folder that was trained with the same settings is evaluated where it lies; any other checkpoint or adapter in a
folder of its own under the config's output, with the config's recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.cli.output import say, tell_all

if TYPE_CHECKING:
    from whet.recipe.schema import Recipe

CONFIGS = Path("configs")
_RECIPE = "recipe.yaml"
_EVALUATED = "evaluated"


def main() -> None:
    """Check and evaluate as the command line asks; errors leave by whet's exit codes."""
    from whet.cli.main import leave_by_exit_code

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(validate_config)
    leave_by_exit_code(app)


def validate_config(
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change.", metavar="[KEY=VALUE]...")] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe, or another tool's YAML.", metavar="CONFIG")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Run folder, checkpoint-N in one, or adapter folder: base and it answer the config's test set.",
            metavar="FOLDER",
        ),
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Check every YAML file under configs/.")] = False,
) -> None:
    """Say what a configuration means and whether it can be run; with a checkpoint, how well that one answers."""
    from whet.errors import RecipeError

    if config is None and not is_all:
        raise RecipeError("give --config FILE, or --all", mend="python validate_config.py --config configs/FILE.yaml")
    if is_all:
        _check_all(sorted(path for pattern in ("*.yaml", "*.yml") for path in CONFIGS.rglob(pattern)))
    if config is None:
        if checkpoint is not None:
            raise RecipeError("a checkpoint is asked the test set of a config", mend="give --config FILE too")
        return
    recipe = _check(config, overrides or [])
    if checkpoint is not None:
        _evaluate(recipe, checkpoint)


def _check(path: Path, overrides: list[str]) -> Recipe:
    from whet.cli.preview import preview_lines, preview_run
    from whet.cli.recipe_file import load_any_recipe

    recipe = load_any_recipe(path, overrides, say)
    for label, value in preview_lines(preview_run(recipe)):
        say(f"  {label}: {value}")
    say(f"ok  {path}")
    return recipe


def _check_all(paths: list[Path]) -> None:
    from whet.cli.recipe_file import load_any_recipe
    from whet.errors import RecipeError

    num_bad = 0
    for path in paths:
        try:
            load_any_recipe(path, (), lambda _: None)
        except RecipeError as error:
            num_bad += 1
            say(str(error))
        else:
            say(f"ok  {path}")
    if num_bad or not paths:
        raise RecipeError(f"{num_bad} of {len(paths)} files cannot be run", where=str(CONFIGS))


def _evaluate(recipe: Recipe, checkpoint: Path) -> None:
    from whet.cli.progress import ProgressLine
    from whet.cli.quiet import quiet_libraries
    from whet.errors import RecipeError
    from whet.evaluation.run import EvaluateOptions, evaluate_run
    from whet.report import write_report

    if not recipe.evaluate:
        raise RecipeError(
            "the config names no test set",
            where="evaluate",
            mend="add one under evaluate: (name and source), see docs/reference/recipe.md",
        )
    run = _run_of(recipe, checkpoint)
    quiet_libraries()
    with ProgressLine() as line:
        comparisons = evaluate_run(run, say=say, options=EvaluateOptions(progress=line.tell))
    tell_all(comparisons)
    say(f"\nreport: {write_report(run)}")


def _run_of(recipe: Recipe, checkpoint: Path) -> Path:
    """The folder to evaluate in: the run itself where it has these settings, else one with the checkpoint's weights."""
    from dataclasses import replace

    from whet.cli.fiqa_evaluation import make_run
    from whet.inference.tuned import final_weights
    from whet.recipe import load_recipe

    final_weights(checkpoint)
    own = checkpoint / _RECIPE
    if own.is_file() and replace(load_recipe(own), output=recipe.output, name=recipe.name) == recipe:
        return checkpoint
    folder = Path(recipe.output) / _EVALUATED / checkpoint.resolve().name
    make_run(folder, replace(recipe, output=str(folder)), checkpoint)
    return folder
