"""What the schema says about a field: its section, the types it takes, and those types in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from whet.recipe.problems import Path
from whet.recipe.schema import Recipe

_WORDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: "null",
}
_BOUNDS: tuple[tuple[type, str, str], ...] = (
    (Ge, "ge", "at least"),
    (Gt, "gt", "above"),
    (Le, "le", "at most"),
    (Lt, "lt", "below"),
)


@cache
def field_types(section: type) -> dict[str, Any]:
    """Key -> annotation (with its bounds) of one section."""
    return get_type_hints(section, include_extras=True)


def field_infos(section: type) -> dict[str, FieldInfo]:
    """Key -> pydantic's record of it (default, docstring)."""
    return section.__pydantic_fields__  # type: ignore[attr-defined]


def members(annotation: Any) -> tuple[Any, ...]:
    """Alternatives of a union; a single type is its own only alternative. `Annotated` stays on."""
    if get_origin(annotation) in (Union, UnionType):
        return get_args(annotation)
    return (annotation,)


def bare(annotation: Any) -> Any:
    """The annotation without its bounds."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def section_of(annotation: Any) -> type | None:
    """The section class of an annotation such as `Model` or `tuple[Source, ...]`; None for a plain value."""
    for member in map(bare, members(annotation)):
        if dataclasses.is_dataclass(member):
            return member if isinstance(member, type) else None
        if get_origin(member) is tuple and dataclasses.is_dataclass(get_args(member)[0]):
            return get_args(member)[0]
    return None


def list_type(annotation: Any) -> Any | None:
    """The tuple among the alternatives, or None when the field is no list."""
    return next((m for m in map(bare, members(annotation)) if get_origin(m) is tuple), None)


def item_type(annotation: Any, key: str | int) -> Any:
    """Annotation one step below: of a key of a section or dict, of a position of a list; `Any` when unknown."""
    if isinstance(key, int):
        listed = list_type(annotation)
        arguments = get_args(listed) if listed else ()
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return arguments[0]
        return arguments[key] if key < len(arguments) else Any
    for member in map(bare, members(annotation)):
        if dataclasses.is_dataclass(member) and isinstance(member, type):
            return field_types(member).get(key, Any)
        if get_origin(member) is dict:
            return get_args(member)[1]
    return Any


def type_at(path: Path) -> Any:
    """Annotation of the field at `path`; `Any` when the schema has no such field."""
    annotation: Any = Recipe
    for part in path:
        annotation = item_type(annotation, part)
    return annotation


def scalar_types(annotation: Any) -> frozenset[type]:
    """Plain types that the field takes, out of str, int, float, bool and NoneType."""
    found: set[type] = set()
    for member in map(bare, members(annotation)):
        if get_origin(member) is Literal:
            found.update(type(value) for value in get_args(member))
        elif member in _WORDS:
            found.add(member)
    return frozenset(found)


def choices(annotation: Any) -> tuple[str, ...]:
    """Words to choose from, for a field that takes fixed words."""
    literals = (m for m in map(bare, members(annotation)) if get_origin(m) is Literal)
    return tuple(str(value) for literal in literals for value in get_args(literal))


def describe(annotation: Any) -> str:
    """The types in words: `a whole number, at least 1, or null`."""
    described = [_describe_one(member) for member in members(annotation)]
    if described and described[-1] == "null" and len(described) > 1:
        comma = "," if "," in described[-2] else ""
        return " or ".join(described[:-1]) + f"{comma} or null"
    return " or ".join(described)


def _describe_one(annotation: Any) -> str:
    kind = bare(annotation)
    if get_origin(kind) is Literal:
        words = [str(value) for value in get_args(kind)]
        return words[0] if len(words) == 1 else "one of " + ", ".join(words)
    if get_origin(kind) is tuple:
        arguments = get_args(kind)
        if arguments[-1] is Ellipsis:
            return f"a list of {_plural(arguments[0])}"
        return f"a list of {len(arguments)} values, each {describe(arguments[0])}"
    if get_origin(kind) is dict:
        return f"keys with values that are {describe(get_args(kind)[1])}"
    if dataclasses.is_dataclass(kind):
        return "a section of keys"
    return ", ".join([_WORDS.get(kind, "a value"), *_describe_bounds(annotation)])


def _plural(annotation: Any) -> str:
    if dataclasses.is_dataclass(annotation):
        return "sections"
    return "texts" if annotation is str else describe(annotation)


def _describe_bounds(annotation: Any) -> list[str]:
    if get_origin(annotation) is not Annotated:
        return []
    limits: list[Any] = []
    for extra in get_args(annotation)[1:]:
        limits += extra.metadata if isinstance(extra, FieldInfo) else [extra]
    return [
        f"{word} {_number(getattr(limit, name))}"
        for kind, name, word in _BOUNDS
        for limit in limits
        if type(limit) is kind
    ]


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def all_keys() -> tuple[Path, ...]:
    """Every key of a recipe, sections before what they hold; lists are entered at position 0."""
    return tuple(_keys_below((), Recipe))


def _keys_below(prefix: Path, section: type) -> Iterator[Path]:
    for key, annotation in field_types(section).items():
        path: Path = (*prefix, key)
        yield path
        inner = section_of(annotation)
        if inner is not None:
            yield from _keys_below((*path, 0) if list_type(annotation) else path, inner)
