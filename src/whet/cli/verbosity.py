"""How much the command line says: `-q` leaves results and errors, `-v` adds what whet logs and where an error arose;
with `--json` standard output is for a program alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

import whet


@dataclass(slots=True)
class _Chosen:
    is_quiet: bool = False
    is_verbose: bool = False
    is_for_program: bool = False


_chosen = _Chosen()


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"whet {whet.__version__}")
        raise typer.Exit


def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Results and errors only; may stand anywhere.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also what whet logs, and where an error arose.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """What may stand in front of every verb."""
    choose(is_quiet=quiet, is_verbose=verbose)


def choose(*, is_quiet: bool, is_verbose: bool) -> None:
    """Set it for this process."""
    _chosen.is_quiet, _chosen.is_verbose = is_quiet and not is_verbose, is_verbose
    _chosen.is_for_program = False
    if is_verbose:
        import logging

        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("whet").setLevel(logging.INFO)


def speak_to_program(is_asked: bool) -> None:
    """With `--json`: from now on sentences go to standard error."""
    _chosen.is_for_program = is_asked


def is_for_program() -> bool:
    """Whether standard output is for one JSON document alone."""
    return _chosen.is_for_program


def is_quiet() -> bool:
    """Whether to leave out what only says how far something is."""
    return _chosen.is_quiet


def is_verbose() -> bool:
    """Whether to show where a known error arose."""
    return _chosen.is_verbose
