"""What makes a class a section of the recipe: frozen, strict, its docstrings are the documentation of its keys."""

from __future__ import annotations

from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def section(cls: type[_T]) -> type[_T]:
    """A frozen dataclass that pydantic checks; unknown keys are refused."""
    checked: Any = dataclass(cls, frozen=True, kw_only=True, config=_STRICT)
    return checked
