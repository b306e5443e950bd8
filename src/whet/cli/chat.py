"""`whet chat RUN_OR_MODEL`: talk to a model in the terminal, or put a list of questions to it through a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from whet.cli.completion import run_paths
from whet.cli.output import say

if TYPE_CHECKING:
    from whet.inference.respond import Request


def chat(
    model: Annotated[
        str,
        typer.Argument(
            help="Run, checkpoint, adapter or model folder, hub id or built-in name.", autocompletion=run_paths
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(help="`base`, or another run or model: both answer, side by side.", metavar="base|MODEL"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", metavar="N")] = 512,
    temperature: Annotated[float, typer.Option(help="0: the most probable token each time; else sampled.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Decides what is drawn.")] = 0,
    system: Annotated[
        str | None, typer.Option(help="System message; default the one of the training rows.", metavar="TEXT")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Of a run, instead of its final weights.", metavar="best|last|N")
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="Base of an adapter folder without a recipe.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tokens, time to the first one and speed of each answer.")
    ] = False,
) -> None:
    """Ask MODEL and read its answer while it is written; it remembers what was said.

    Ctrl-C stops an answer, Ctrl-D leaves, /help lists the commands. When standard input is no terminal, every line is
    a question, and standard output holds the answers alone.
    """
    from whet.allocator import keep_few_kernels
    from whet.cli.chat_loop import Chat, Side, lines_of, run_chat
    from whet.cli.quiet import quiet_libraries
    from whet.inference.chat import Conversation
    from whet.inference.chat_models import open_models, shared_stop_strings
    from whet.inference.decoding import Decoding

    request = _find(model, checkpoint, base_model)
    decoding = Decoding(
        max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
        stop_strings=shared_stop_strings(request.recipe),
    )  # fmt: skip
    quiet_libraries()
    keep_few_kernels()
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        say(f"loading {model}{f' and {against}' if against else ''} ...")
    sides = [
        Side(
            name=name,
            conversation=Conversation(
                responder=responder, decoding=decoding, system=responder.system if system is None else system
            ),
        )
        for name, responder in open_models(request, against).items()
    ]
    run_chat(Chat(sides=sides, is_verbose=verbose, is_terminal=is_terminal), lines_of(sys.stdin))


def _find(model: str, checkpoint: str | None, base_model: str | None) -> Request:
    from pathlib import Path

    from whet.errors import RecipeError
    from whet.inference.chat_models import find_checkpoint, find_recipe
    from whet.inference.respond import Request

    recipe = find_recipe(model)
    if checkpoint is not None:
        if recipe is None:
            raise RecipeError(f"{model} is no run, so it has no checkpoints", mend="leave --checkpoint out")
        model = str(find_checkpoint(Path(model).expanduser(), checkpoint))
    return Request(name=model, base_model=base_model, recipe=recipe)
