"""`whet generate MODEL_OR_RUN --prompt TEXT`: ask a model as it was asked in training, and print its answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whet.cli import verbosity
from whet.cli.completion import run_paths
from whet.cli.output import Json, give, put_text, say
from whet.cli.progress import ProgressLine

if TYPE_CHECKING:
    from whet.inference.engine import Completion


def generate(
    model: Annotated[
        str,
        typer.Argument(
            help="Run, adapter or model folder, hub id or built-in name.",
            metavar="MODEL_OR_RUN",
            autocompletion=run_paths,
        ),
    ],
    prompt: Annotated[str | None, typer.Option(help="What to ask.", metavar="TEXT")] = None,
    file: Annotated[Path | None, typer.Option(help="Prompts, one a line.", metavar="FILE")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write JSON lines of {prompt, answer, ...} (NAME.json: one list) instead of printing."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", metavar="N")] = 256,
    temperature: Annotated[float, typer.Option(help="0: the most probable token each time; else sampled.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample among the tokens that together have this probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample among this many tokens; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Decides what is drawn.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Text before which an answer ends; may be repeated.")] = None,
    system: Annotated[
        str | None, typer.Option(help="System message; default the one of the training rows.", metavar="TEXT")
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Ask the base of the run instead.")] = False,
    base_model: Annotated[str | None, typer.Option(help="Base of an adapter folder without a recipe.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe whose base and template apply, for a folder without one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer one prompt, or every line of a file.

    A run's prompts are rendered by its recipe, as in training and evaluation; other models use their chat template,
    and without one the prompt is continued as it is.
    """
    from whet.cli.quiet import quiet_libraries
    from whet.cli.recipe_file import load_any_recipe
    from whet.inference.decoding import Decoding
    from whet.inference.respond import Request, open_responder, respond

    verbosity.speak_to_program(as_json)
    texts = _read_prompts(prompt, file)
    decoding = Decoding(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed,
        stop_strings=tuple(stop or ()),
    )  # fmt: skip
    named = load_any_recipe(recipe, (), lambda _: None) if recipe is not None else None
    quiet_libraries()
    responder = open_responder(Request(name=model, base_model=base_model, recipe=named, uses_base=base))
    with ProgressLine() as line:
        completions = respond(
            responder, texts, decoding, system=system, progress=lambda done: line.tell("answers", done, len(texts))
        )
    _hand_over(_rows(texts, completions), output, as_json=as_json)
    _note_what_was_cut(completions)


def _hand_over(rows: Sequence[dict[str, Any]], output: Path | None, *, as_json: bool) -> None:
    if output is not None:
        _write(output, rows)
    if as_json:
        give(rows)
    elif output is None:
        put_text("".join(f"{row['answer'] or ''}\n" for row in rows))


def _note_what_was_cut(completions: Sequence[Completion]) -> None:
    num_cut = sum(not completion.has_stopped for completion in completions)
    if num_cut:
        sys.stderr.write(f"note: {num_cut} of {len(completions)} answers were cut off at their length limit\n")


def _read_prompts(prompt: str | None, file: Path | None) -> list[str]:
    from whet.errors import DataError, RecipeError

    if (prompt is None) == (file is None):
        raise RecipeError("give either --prompt TEXT or --file FILE", mend="whet generate MODEL --prompt 'Why?'")
    if file is None:
        return [prompt or ""]
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", where=str(file), mend="name a UTF-8 text file") from error
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise DataError("holds no prompt", where=str(file), mend="write one prompt a line")
    return texts


def _rows(texts: Sequence[str], completions: Sequence[Completion]) -> list[dict[str, Any]]:
    return [
        {"prompt": text, "answer": c.text, "ended": c.ended, "num_new_tokens": len(c.ids)}
        for text, c in zip(texts, completions, strict=True)
    ]


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    from whet import atomic

    is_list = path.suffix == ".json"
    content = json.dumps(rows, indent=1) + "\n" if is_list else "".join(json.dumps(row) + "\n" for row in rows)
    atomic.write_text(path, content)
    say(f"{len(rows)} answers in {path}")
