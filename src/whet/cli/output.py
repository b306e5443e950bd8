"""Sentences for a terminal: they never stop a run (a closed pipe or a full log disk only ends the talking), and nothing
in them steers the terminal, whatever rows, models or file names hold."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whet.cli import verbosity
from whet.streams import point_at_nothing
from whet.visible import spelled_out

if TYPE_CHECKING:
    from whet.types import Comparison


Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document and nothing else; sentences go to standard error."),
]
"""of verbs that say how far they are"""


def say(sentence: str = "") -> None:
    """Print one line; once nobody can read (`| head`, a full disk), standard output is pointed at nothing."""
    if verbosity.is_for_program():
        complain(sentence)
    else:
        put(f"{spelled_out(sentence)}\n")


def give(document: Any) -> None:
    """The answer to a program, as JSON in ASCII."""
    put(json.dumps(document, indent=1) + "\n")


def complain(sentence: str) -> None:
    """One line on standard error, beside what is printed for programs."""
    try:
        typer.echo(spelled_out(sentence), err=True)
    except OSError:
        point_at_nothing(sys.stderr.fileno())


def put(text: str) -> None:
    """Write `text` as it is: colours that whet chose, or bytes for a program; like `say` it can never stop a run."""
    try:
        typer.echo(text, nl=False)
    except OSError:
        point_at_nothing(sys.stdout.fileno())


def put_text(text: str) -> None:
    """What a model or another's file says: as it is for a file or a program, spelled out at a terminal."""
    put(spelled_out(text) if sys.stdout.isatty() else text)


def note(sentence: str = "") -> None:
    """`say` of how far something is, which `-q` leaves out."""
    if not verbosity.is_quiet():
        say(sentence)


def say_on_main(sentence: str = "") -> None:
    """`note` by one of several processes; knows its rank from the launcher's variables alone, without torch."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        note(sentence)


def tell(comparison: Comparison) -> None:
    """One verdict with its dataset, then its sentences."""
    say(f"\n{comparison.dataset}: {comparison.verdict.upper()}")
    for sentence in comparison.sentences:
        say(f"  {sentence}")


def verdicts_document(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The verdict over all sets and each of them, for programs; `overall` is None where nothing was compared."""
    from dataclasses import asdict

    from whet.verdict import overall, to_document

    return {
        "overall": asdict(overall(comparisons)) if comparisons else None,
        "comparisons": [to_document(comparison) for comparison in comparisons],
    }


def tell_all(comparisons: Sequence[Comparison]) -> None:
    """Every verdict, then the one over all sets, where there are several."""
    from whet.verdict import overall

    for comparison in comparisons:
        tell(comparison)
    if len(comparisons) > 1:
        say(f"\n{overall(comparisons).sentence}")
