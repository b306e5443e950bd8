"""Handing over to the programs of other schedulers: as a list of words, never through a shell."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from whet.errors import RecipeError


def at_hand(program: str) -> bool:
    """Whether `program` is on this machine."""
    return shutil.which(program) is not None


def command_text(command: Sequence[str], *, heads: Collection[str] = ()) -> str:
    """`command` as one would type it, with a new line before each long option and each word of `heads`."""
    lines: list[str] = []
    for word in command:
        if not lines or word.startswith("--") or word in heads:
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n    ".join(lines)


def run_command(command: Sequence[str]) -> int:
    """Run `command` to its end; its exit code. RecipeError when it is not on this machine."""
    try:
        return subprocess.run(command, check=False).returncode  # noqa: S603 (a list, read by no shell)
    except FileNotFoundError as error:
        raise RecipeError(
            f"{command[0]} is not on this machine", where="--submit", mend="install it, or look first with --dry-run"
        ) from error


def run_with_file(command: Callable[[str], Sequence[str]], text: str, suffix: str) -> int:
    """`run_command` of the command that reads `text` from the file whose path it is given."""
    with tempfile.TemporaryDirectory(prefix="whet-launch-") as folder:
        path = Path(folder) / f"job{suffix}"
        path.write_text(text, encoding="utf-8")
        return run_command(command(str(path)))
