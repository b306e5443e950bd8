"""JSON that another tool wrote: what is not as expected is an error with its place."""

from __future__ import annotations

import json
import math
from typing import Any

from whet.errors import DataError


def parse_object(text: str, *, where: str, mend: str) -> dict[str, Any]:
    """The JSON object that `text` is; DataError at `where` for anything else."""
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", where=where, mend=mend) from error
    if not isinstance(value, dict):
        raise DataError("a JSON object is expected", where=where, mend=mend)
    return value


def finite_number(value: object) -> float | None:
    """`value` where it is a finite number."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
