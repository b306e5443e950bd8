"""Comparison <-> the JSON object of comparison.json; one reader for the evaluation and for the report."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from whet.types import Comparison


def to_document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as an object of plain JSON values."""
    return asdict(comparison)


def from_document(document: object) -> Comparison:
    """What `to_document` wrote, now or in an earlier version; ValueError names the malformed field."""
    if not isinstance(document, dict):
        raise ValueError("a JSON object is expected")
    _refuse_non_finite(document, "")
    try:
        return _adapter().validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"`{place}`: {first['msg']}") from error


@cache
def _adapter() -> TypeAdapter[Comparison]:
    return TypeAdapter(Comparison)


def _refuse_non_finite(value: object, place: str) -> None:
    """Also numbers of 1e300 and more, which no axis can hold."""
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_non_finite(item, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_non_finite(item, f"{place}.{index}")
    elif isinstance(value, float) and not abs(value) < 1e300:
        raise ValueError(f"`{place}`: {'not a number' if math.isnan(value) else 'too large'}")
