"""What is said when something fails after training: the weights are safe, and which command does the rest."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import typer


@contextmanager
def weights_are_safe(run_folder: Path, *, rest: str) -> Iterator[None]:
    """Around what follows training. Whatever ends it early, standard error says what is done and how to do the `rest`,
    a command line without its run folder."""
    is_done = False
    try:
        yield
        is_done = True
    finally:
        if not is_done:
            with suppress(OSError):
                typer.echo(sentence(run_folder, rest=rest), err=True)


def sentence(run_folder: Path, *, rest: str) -> str:
    """`training is finished and its weights are in runs/demo; for the rest ...`"""
    command = f"{rest} {shlex.quote(str(run_folder))}"
    return (
        f"training is finished and its weights are in {run_folder}; what failed came after it\n"
        f"  next: give the same command again (no step is trained again), or: {command}"
    )
