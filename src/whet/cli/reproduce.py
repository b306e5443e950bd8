"""`whet reproduce RUN`: make a recorded run anew and say whether, or from which step on, it comes out otherwise."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from whet.cli import verbosity
from whet.cli.completion import run_paths
from whet.cli.output import Json, give, note, say


def reproduce(
    run: Annotated[
        Path, typer.Argument(help="Run folder, finished or interrupted.", metavar="RUN", autocompletion=run_paths)
    ],
    output: Annotated[
        Path | None, typer.Option(help="New folder to train into; default RUN-reproduced.", metavar="FOLDER")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Make and compare only the first steps.", min=1, metavar="N")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train RUN again from its own records and compare every step with it, to the last bit.

    Exit code 8 at the first step that differs, saying in what. Equal bits need the same kind of processor, threads,
    ranks and versions; on another machine losses must agree within 1 %. Answers to evaluation sets are not made again.
    """
    from whet.cli.quiet import quiet_libraries
    from whet.cli.run_argument import check_run
    from whet.parallel.place import read_env
    from whet.parallel.rank_files import rank_files
    from whet.train.reproduce import reproduce as make_again
    from whet.train.signals import interruptible

    verbosity.speak_to_program(as_json)
    quiet_libraries()
    check_run(run)
    target = output or run.with_name(f"{run.resolve().name}-reproduced")
    env = read_env()
    with rank_files(target, rank=env.rank, world_size=env.world_size) as files, interruptible():
        found = make_again(run, target, num_steps=steps, say=note, files=files)
    if not env.is_main:
        return
    for sentence in found.sentences:
        say(sentence)
    say(f"next: whet diff {shlex.quote(str(run))} {shlex.quote(str(target))}")
    if as_json:
        give({"run": str(run), "output": str(target)} | asdict(found))
