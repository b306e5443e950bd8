"""The FiQA project's evaluation script: its flags, its result file, and the files of its evaluation plan.

A run folder, or the `final_model` in one, is evaluated where it lies. Another adapter, or a base alone, is given a
folder of its own beside the output, with the recipe that says what it is asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whet.cli.fiqa_project import CHECKPOINTS, FINAL_MODEL
from whet.cli.output import say, tell_all

if TYPE_CHECKING:
    from whet.recipe.schema import Recipe

_RECIPE = "recipe.yaml"
_NONE = "none"
_EVALUATED = "evaluated"
_SHOWN_ROWS, _SHOWN_LETTERS = 3, 150


def main(default_recipe: Path) -> None:
    """Evaluate as the command line asks; errors leave by whet's exit codes."""
    from whet.cli.main import leave_by_exit_code

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def evaluate_fiqa(
        overrides: Annotated[
            list[str] | None,
            typer.Argument(
                help="Settings to change, such as evaluate.0.source.source=test.jsonl.", metavar="[KEY=VALUE]..."
            ),
        ] = None,
        base_model: Annotated[str | None, typer.Option(help="Base model; default the recipe's.")] = None,
        peft_model: Annotated[str, typer.Option(help="Run folder or adapter folder, or `none`: the base alone.")] = str(
            CHECKPOINTS / FINAL_MODEL
        ),
        recipe: Annotated[Path, typer.Option(help="Recipe of an adapter that lies in no run folder.")] = default_recipe,
        max_samples: Annotated[
            int | None, typer.Option(help="Rows to answer, the first ones; default all.", min=1)
        ] = None,
        compare_base: Annotated[bool, typer.Option(help="Put the base's results into the output too.")] = False,
        output: Annotated[Path, typer.Option(help="Result file.")] = Path("results", "eval_results.json"),
        verbose: Annotated[bool, typer.Option(help="Show the first answers.")] = False,
        checkpoint_dir: Annotated[str | None, typer.Option(help="Accepted; not needed.")] = None,
        checkpoint_interval: Annotated[int | None, typer.Option(help="Accepted; not needed.")] = None,
        resume: Annotated[bool, typer.Option(help="Accepted; an evaluation always goes on where it was.")] = False,
        no_checkpoint: Annotated[bool, typer.Option(help="Accepted; answers are kept all the same.")] = False,
    ) -> None:
        """Answer FiQA's test questions with base and tuned, greedily, and score both. An interrupted evaluation
        continues with the same command."""
        run, recipe_of_run = find_run(
            peft_model,
            output.parent / _EVALUATED / ("base" if peft_model == _NONE else "adapter"),
            recipe=recipe,
            base_model=base_model,
            overrides=overrides or (),
        )
        if checkpoint_dir or checkpoint_interval or resume or no_checkpoint:
            say(f"answers are kept in {run / 'evaluations'} as they are made, and a killed evaluation goes on there: "
                "the options about checkpoints change nothing")  # fmt: skip
        _evaluate(run, is_base_only=peft_model == _NONE, max_samples=max_samples)
        _write(run, recipe_of_run, output, compare_base=compare_base or peft_model == _NONE, verbose=verbose)

    leave_by_exit_code(app)


def find_run(
    peft_model: str, folder: Path, *, recipe: Path, base_model: str | None, overrides: Sequence[str]
) -> tuple[Path, Recipe]:
    """The run folder to evaluate and its recipe; `folder` becomes one where there is none or settings are changed.

    StorageError where `peft_model` is no run and no adapter.
    """
    from whet.recipe import load_recipe

    source = Path(peft_model)
    home = next((place for place in _homes(source) if (place / _RECIPE).is_file()), None)
    changes = [*overrides, *([f"model.id={base_model}"] if base_model else [])]
    is_own = home is not None and (source == home or source.name == FINAL_MODEL)
    if home is not None and is_own and load_recipe(home / _RECIPE, changes) == load_recipe(home / _RECIPE):
        return home, load_recipe(home / _RECIPE)
    changed = load_recipe(home / _RECIPE if home else recipe, [*changes, f"output={folder}"])
    make_run(folder, changed, None if peft_model == _NONE else source)
    return folder, changed


def _homes(source: Path) -> tuple[Path, ...]:
    return () if str(source) == _NONE else (source, source.parent)


def make_run(folder: Path, recipe: Recipe, adapter: Path | None) -> None:
    """Make `folder` one that can be evaluated: `recipe`, and the weights of a run, checkpoint or adapter folder."""
    from whet.atomic import write_bytes, write_text
    from whet.checkpoint.names import SHARDS
    from whet.inference.tuned import final_weights
    from whet.models.adapters import ADAPTER_CONFIG
    from whet.models.weight_files import INDEX
    from whet.recipe import dump_recipe

    if adapter is not None:
        for path in (*final_weights(adapter), *(adapter / name for name in (ADAPTER_CONFIG, INDEX, SHARDS))):
            if path.is_file():
                write_bytes(folder / path.name, path.read_bytes())
    write_text(folder / _RECIPE, dump_recipe(recipe))


def _evaluate(run: Path, *, is_base_only: bool, max_samples: int | None) -> None:
    from whet.cli.progress import ProgressLine
    from whet.cli.quiet import quiet_libraries
    from whet.evaluation.run import EvaluateOptions, evaluate_run

    quiet_libraries()
    with ProgressLine() as line:
        options = EvaluateOptions(max_rows=max_samples, base_only=is_base_only, progress=line.tell)
        comparisons = evaluate_run(run, say=say, options=options)
    tell_all(comparisons)


def _write(run: Path, recipe: Recipe, output: Path, *, compare_base: bool, verbose: bool) -> None:
    """The plan's files beside `output`, and `output` in the shape of the project's own: {peft, base, comparison}."""
    from whet.atomic import write_text
    from whet.evaluation.plan_files import BASELINE, COMPARISON, PEFT, plan_documents, write_plan_files

    for path in write_plan_files(run, output.parent):
        say(f"written: {path}")
    documents = plan_documents(run, recipe.evaluate[0].name)
    results: dict[str, Any] = {}
    if PEFT in documents:
        results["peft"] = documents[PEFT]
    if compare_base:
        results["base"] = documents[BASELINE]
        if COMPARISON in documents:
            results["comparison"] = documents[COMPARISON]["comparison"]
    write_text(output, json.dumps(results, indent=1) + "\n")
    say(f"written: {output}")
    if verbose:
        _show(documents[PEFT if PEFT in documents else BASELINE])


def _show(result: dict[str, Any]) -> None:
    pairs = zip(result["ground_truths"], result["predictions"], strict=True)
    for number, (truth, prediction) in enumerate(list(pairs)[:_SHOWN_ROWS], start=1):
        say(f"\nrow {number}")
        say(f"  ground truth: {truth[:_SHOWN_LETTERS]!r}")
        say(f"  prediction:   {prediction[:_SHOWN_LETTERS]!r}")
