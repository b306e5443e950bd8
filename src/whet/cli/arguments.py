"""The command line is completed before typer sees it: `--resume` may stand alone, `-q` and `-v` anywhere.

typer knows no optional values, and takes what holds for every verb in front of the verb only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

_OVERRIDE = re.compile(r"[a-z_]+(\.\w+)*=")
_ANYWHERE = ("-q", "--quiet", "-v", "--verbose")
_HAS_ITS_OWN = ("chat",)
"""verbs in which these letters mean something else"""
_TAKES_ANY_TEXT = ("--prompt", "--system", "--stop")


def complete(arguments: Sequence[str]) -> list[str]:
    """`train R --resume -q` becomes `-q train R --resume=auto`; `--resume` also before an option or a setting."""
    flags, rest = _take_flags(arguments)
    if not rest or rest[0] != "train":
        return [*flags, *rest]
    following = [*rest[1:], None]
    return flags + [
        "--resume=auto" if argument == "--resume" and not _is_checkpoint(after) else argument
        for argument, after in zip(rest, following, strict=True)
    ]


def _take_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags that hold for every verb, and the rest."""
    verb = next((argument for argument in arguments if not argument.startswith("-")), "")
    if verb in _HAS_ITS_OWN:
        return [], list(arguments)
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    flags: list[str] = []
    rest: list[str] = []
    for before, argument in pairwise(["", *arguments[:end]]):
        is_flag = argument in _ANYWHERE and before not in _TAKES_ANY_TEXT
        (flags if is_flag else rest).append(argument)
    return flags, [*rest, *arguments[end:]]


def _is_checkpoint(argument: str | None) -> bool:
    """Whether `argument` is the value of `--resume` rather than what comes after it."""
    if argument is None or argument == "" or argument.startswith("-"):
        return False
    if argument == "auto" or Path(argument).is_dir():
        return True
    return not _OVERRIDE.match(argument) and Path(argument).suffix not in (".yaml", ".yml")
