"""Problems found in a recipe: collected first, then raised together as one RecipeError."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.errors import RecipeError

Path = tuple[str | int, ...]
"""Keys and list positions from the top of the recipe: ("data", "train", 0, "rows")."""


def dotted(path: Path) -> str:
    """`data.train.0.rows`, as it is typed on the command line."""
    return ".".join(str(part) for part in path)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong; `paths[0]` is the key to point at, the others take part."""

    paths: tuple[Path, ...]
    what: str


MAX_LINES = 100
"""Problems that are printed; a file of another kind can have thousands."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of the report."""

    place: str
    """`file:line`, or `command line:` for an override"""
    path: Path
    what: str

    def __str__(self) -> str:
        key = dotted(self.path)
        return f"{self.place} {key}: {self.what}" if key else f"{self.place} {self.what}"


def raise_together(problems: Sequence[Problem], file_name: str) -> None:
    """Raise one RecipeError that lists every problem in order; return when there is none."""
    if not problems:
        return
    lines = [str(problem) for problem in problems]
    if len(lines) == 1:
        raise RecipeError(lines[0])
    more = [f"... and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    raise RecipeError("\n  ".join([f"{file_name} has {len(lines)} problems:", *lines[:MAX_LINES], *more]))
