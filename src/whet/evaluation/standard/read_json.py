"""JSON that another tool wrote: what is not as expected is an error with its place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whet import json_text
from whet.errors import DataError


def parse_object(text: str, *, where: str, mend: str) -> dict[str, Any]:
    """The JSON object that `text` is; DataError at `where` for anything else."""
    try:
        value = json_text.read_json(text)
    except ValueError as error:
        raise DataError(f"not JSON ({error})", where=where, mend=mend) from error
    if not isinstance(value, dict):
        raise DataError("a JSON object is expected", where=where, mend=mend)
    return value


def finite_number(value: object) -> float | None:
    """`value` where it is a finite number."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


@contextmanager
def of_known_form(folder: Path, *, mend: str) -> Iterator[None]:
    """DataError where the values of a tool's files, read inside, turn out to be of other kinds than expected."""
    try:
        yield
    except DataError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        what = f"files of another form ({type(error).__name__}: {str(error)[:200]})"
        raise DataError(what, where=str(folder), mend=mend) from error
