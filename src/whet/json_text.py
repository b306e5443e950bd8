"""JSON that others wrote, read with one kind of error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

MOST_LEVELS = 100


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text in UTF-8; ValueError for every text that is none, also where values nest too deeply.

    The library's own function raises RecursionError there, which a caller that expects damaged files easily forgets.
    """
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def nests_deeply(value: Any, most_levels: int = MOST_LEVELS) -> bool:
    """Whether lists and objects lie in each other more than `most_levels` deep. How much deeper a parser goes differs
    from Python to Python; what walks the value afterwards would end in RecursionError."""
    level = [value]
    for _ in range(most_levels):
        level = [item for each in level for item in _items(each)]
    return any(isinstance(each, dict | list) for each in level)


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def read_object(text: str | bytes) -> dict[str, Any] | None:
    """The JSON object of a text; None for every text that is none."""
    try:
        value = read_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def objects_of_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """The objects of a file with one a line; a line that is torn or something else is left out."""
    for line in content.splitlines():
        if (value := read_object(line)) is not None:
            yield value
