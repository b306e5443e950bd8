"""`--resume` may stand alone: the command line is completed before typer sees it, which knows no optional values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_OVERRIDE = re.compile(r"[a-z_]+(\.\w+)*=")


def complete(arguments: Sequence[str]) -> list[str]:
    """`train R --resume` becomes `train R --resume=auto`; so does `--resume` before an option or a setting."""
    if not arguments or arguments[0] != "train":
        return list(arguments)
    following = [*arguments[1:], None]
    return [
        "--resume=auto" if argument == "--resume" and not _is_checkpoint(after) else argument
        for argument, after in zip(arguments, following, strict=True)
    ]


def _is_checkpoint(argument: str | None) -> bool:
    """Whether `argument` is the value of `--resume` rather than what comes after it."""
    if argument is None or argument == "" or argument.startswith("-"):
        return False
    if argument == "auto" or Path(argument).is_dir():
        return True
    return not _OVERRIDE.match(argument) and Path(argument).suffix not in (".yaml", ".yml")
