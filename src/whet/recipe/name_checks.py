"""Names, files and ids are one line of visible text: a control character steers a terminal, a NUL ends a path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from whet.recipe.problems import Finding, Path
from whet.recipe.schema import Recipe
from whet.visible import spelled_out

_TEXTS = ("prompt", "system", "instruction", "stop", "options")
"""keys whose value is text for the model: any character belongs there"""
_MOST_CHARACTERS = {"name": 200}
_MOST_CHARACTERS_OTHERWISE = 4_000


def names_are_plain(recipe: Recipe) -> Iterator[Finding]:
    """No control or direction-changing character in a name, file or id, and no name that no file system takes."""
    for path, text in _texts(asdict(recipe), ()):
        keys = [part for part in path if isinstance(part, str)]
        most = _MOST_CHARACTERS.get(keys[-1], _MOST_CHARACTERS_OTHERWISE)
        if any(key in _TEXTS for key in keys):
            continue
        shown = spelled_out(text).replace("\n", "<U+000A>").replace("\t", "<U+0009>")
        if shown != text:
            yield Finding((path,), f"holds a control or invisible character (found {shown[:100]})")
        elif len(text) > most:
            yield Finding((path,), f"is longer than {most:,} characters")


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _texts(child, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield from _texts(child, (*path, index))
