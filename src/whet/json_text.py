"""JSON that others wrote, read with one kind of error."""

from __future__ import annotations

import json
from typing import Any


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text in UTF-8; ValueError for every text that is none, also where values nest too deeply.

    The library's own function raises RecursionError there, which a caller that expects damaged files easily forgets.
    """
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
