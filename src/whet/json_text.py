"""JSON that others wrote, read with one kind of error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text in UTF-8; ValueError for every text that is none, also where values nest too deeply.

    The library's own function raises RecursionError there, which a caller that expects damaged files easily forgets.
    """
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


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
