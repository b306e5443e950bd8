"""`whet train RECIPE`: train, evaluate base and tuned, compare and report, continuing an interrupted run."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whet.cli import verbosity
from whet.cli.output import Json, give, note, say, say_on_main, tell_all, verdicts_document
from whet.cli.recipe_argument import Overrides, RecipeFile

if TYPE_CHECKING:
    from whet.parallel.rank_files import RankFiles
    from whet.recipe.schema import Recipe


_AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="Go on although recipe, data, tokenizer, base or versions are not those the run was begun with; what "
        "changed is recorded in every later checkpoint and in the report.",
    ),
]
_Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Before an interrupted run goes on, make a step again that it has made already; exit code 8 unless "
        "it comes out the same, bit for bit.",
    ),
]


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option(help="Move an earlier run in the folder aside and start anew.")] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Continue from a checkpoint: `auto` (the newest; an error if there is none) or its folder. "
            "Without this, an interrupted run in the folder is continued and otherwise a new one begins.",
            metavar="[PATH]",
        ),
    ] = None,
    accept_changes: _AcceptChanges = False,
    verify: _Verify = False,
    evaluate: Annotated[
        bool,
        typer.Option("--evaluate/--no-evaluate", help="Answer the evaluation sets with base and tuned afterwards."),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check the rows, print the plan, train nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune as RECIPE says, then show whether it helped.

    Ctrl-C finishes the step, saves and exits with 75; the same command continues. On a finished run the same
    command prints its summary.
    """
    from whet.cli.recipe_file import load_any_recipe
    from whet.launch.accelerate_settings import refuse_contradictions
    from whet.launch.machine import count_gpus
    from whet.parallel.place import read_env
    from whet.parallel.rank_files import rank_files
    from whet.parallel.status import is_relaunch
    from whet.train import folder
    from whet.train.signals import interruptible

    verbosity.speak_to_program(as_json)
    loaded = load_any_recipe(recipe, overrides or (), say_on_main)
    if is_relaunch(Path(loaded.output)):
        # torchrun repeats the whole command: the ranks continue what this launch began
        fresh, resume, verify = False, None, False
    refuse_contradictions(os.environ, loaded, has_gpu=lambda: count_gpus() > 0)
    if dry_run:
        _rehearse(loaded, fresh=fresh, accept_changes=accept_changes, as_json=as_json)
        return
    folder.check_writable(Path(loaded.output), needed_bytes=folder.needed_bytes(loaded))
    if not fresh:
        folder.refuse_other_recipe(Path(loaded.output), loaded, is_accepting=accept_changes)
    env = read_env()
    origins = _origins(recipe, loaded, overrides or ())
    with rank_files(Path(loaded.output), rank=env.rank, world_size=env.world_size) as files, interruptible():
        _train(
            loaded, files, origins, fresh=fresh, resume=resume, accept_changes=accept_changes, verify=verify,
            evaluate=evaluate, as_json=as_json,
        )  # fmt: skip


def _rehearse(recipe: Recipe, *, fresh: bool, accept_changes: bool, as_json: bool) -> None:
    from whet.cli.preview import preview_json
    from whet.cli.quiet import quiet_libraries
    from whet.cli.recipe import print_preview
    from whet.cli.rehearsal import rehearse
    from whet.evaluation import scoring
    from whet.train import folder

    quiet_libraries()
    scoring.require(recipe.evaluate)
    if not fresh:
        folder.refuse_other_recipe(Path(recipe.output), recipe, is_accepting=accept_changes)
    preview = rehearse(recipe, say=note, fresh=fresh)
    if as_json:
        give(preview_json(preview))
    else:
        print_preview(preview)
    say("dry run: nothing was trained")


def _origins(file: Path, recipe: Recipe, overrides: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """Of each value of the recipe, where it came from, for the run folder: the file without its folder."""
    from whet.cli.recipe_file import text_of_recipe
    from whet.recipe.provenance import explain_values

    text, name = text_of_recipe(file)
    return {each.key: (each.value, each.origin) for each in explain_values(recipe, text, Path(name).name, overrides)}


def _train(
    recipe: Recipe, files: RankFiles, origins: Mapping[str, tuple[Any, str]], *, fresh: bool, resume: str | None,
    accept_changes: bool, verify: bool, evaluate: bool, as_json: bool,
) -> None:  # fmt: skip
    from whet.allocator import keep_freed_memory, release_memory
    from whet.cli.after_training import weights_are_safe
    from whet.cli.quiet import quiet_libraries
    from whet.evaluation import scoring
    from whet.evaluation.run import evaluate_run
    from whet.report import write_report
    from whet.train.folder import read_summary
    from whet.train.on_record import Record
    from whet.train.run import Options, run_recipe
    from whet.train.startup import process_start

    quiet_libraries()
    logging.getLogger(__name__).info(keep_freed_memory())
    if evaluate:
        scoring.require(recipe.evaluate)  # before hours of training, not after them
    options = Options(
        fresh=fresh, resume=resume, accept_changes=accept_changes, verify=verify, say=note, started=process_start(),
        files=files, callbacks=(Record(Path(recipe.output), origins),),
    )  # fmt: skip
    outcome = run_recipe(recipe, options)
    if outcome.is_main:
        state = "was finished before" if outcome.was_finished_before else f"finished in {outcome.seconds:.0f} s"
        say(f"{recipe.name}: {outcome.steps} steps, {state}")
    was_answered, comparisons = evaluate and bool(recipe.evaluate), []
    with weights_are_safe(outcome.run_folder, rest=f"whet {'evaluate' if was_answered else 'report'}"):
        if was_answered:
            release_memory()
            # every rank writes its share of the answers; the first one compares
            comparisons = evaluate_run(outcome.run_folder, say=note)
            tell_all(comparisons)
        if not outcome.is_main:
            return
        report = write_report(outcome.run_folder)
    say(f"\nreport: {report}")
    say(f"next: whet {'chat' if was_answered else 'evaluate'} {shlex.quote(str(outcome.run_folder))}")
    if as_json:
        found = {"run": str(outcome.run_folder), "was_finished_before": outcome.was_finished_before}
        give(found | read_summary(outcome.run_folder) | verdicts_document(comparisons) | {"report": str(report)})
