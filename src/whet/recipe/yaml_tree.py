"""YAML text -> a tree of text that knows the place of every key; no value is constructed here.

Only PyYAML's safe event stream is used, so no tag can run code and no scalar is guessed by the rules of
YAML 1.1 (where 1e-4 is text, `no` is false and 12:30:45 is a number). What a scalar means is decided by
`scalar_value` from the type of its field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import yaml

from whet.errors import RecipeError
from whet.recipe.problems import Path, Problem

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 5_000

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,3999})")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)?\.[0-9]+|(0|[1-9][0-9]*)\.?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORD_BOOLS = {"yes": True, "on": True, "no": False, "off": False}


@dataclass(slots=True)
class Scalar:
    """A single value as it was written."""

    text: str
    is_quoted: bool
    place: str


@dataclass(slots=True)
class ListNode:
    items: list[Node]
    place: str


@dataclass(slots=True)
class MapNode:
    entries: dict[str, Node]
    place: str


Node = Scalar | ListNode | MapNode


def parse_tree(text: str, place_of: Callable[[int], str]) -> tuple[Node, list[Problem]]:
    """Tree of one YAML document, and what is wrong with it (double keys, tags, anchors, aliases).

    `place_of` names a line (1 is the first). RecipeError when the text is no YAML, too large or too deep.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise RecipeError(f"is larger than {MAX_BYTES:,} bytes", where=place_of(1), mend="rows belong in a data file")
    try:
        builder = _Builder(yaml.parse(text, Loader=yaml.SafeLoader), place_of)
        return builder.document(), builder.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = place_of(mark.line + 1) if mark else place_of(1)
        raise RecipeError(f"is not YAML: {error.problem or error.context}", where=where, mend=_mend(error)) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"is not YAML: {' '.join(str(error).split())}", where=place_of(1)) from error


def _mend(error: yaml.MarkedYAMLError) -> str:
    if "\\t" in str(error.problem):
        return "indent with spaces, not with tabs"
    if "mapping values are not allowed" in str(error.problem):
        return "put text that contains ': ' in quotes, and check the indentation"
    return "check quotes, brackets and indentation on this line and the one before"


class _Builder:
    """Turns the event stream into nodes; keeps going after a problem so that all are told at once."""

    def __init__(self, events: Iterator[yaml.Event], place_of: Callable[[int], str]) -> None:
        self.events = events
        self.place_of = place_of
        self.problems: list[Problem] = []
        self.num_values = 0

    def document(self) -> Node:
        root: Node = Scalar("", False, self.place_of(1))
        num_documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                num_documents += 1
                if num_documents > 1:
                    raise RecipeError(
                        "a second document starts here", where=self._place(event), mend="one recipe per file"
                    )
                root = self.node(next(self.events), ())
        return root

    def node(self, event: yaml.Event, path: Path) -> Node:
        place = self._place(event)
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise RecipeError(f"has more than {MAX_VALUES:,} values", where=place, mend="rows belong in a data file")
        self._refuse_extras(event, path, place)
        if isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent) and len(path) >= MAX_DEPTH:
            raise RecipeError(f"is nested deeper than {MAX_DEPTH} levels", where=place)
        if isinstance(event, yaml.SequenceStartEvent):
            return ListNode(list(self._items(path)), place)
        if isinstance(event, yaml.MappingStartEvent):
            return MapNode(self._entries(path), place)
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(event.value, bool(event.style), place)
        return Scalar("", False, place)

    def _refuse_extras(self, event: yaml.Event, path: Path, place: str) -> None:
        if isinstance(event, yaml.AliasEvent):
            self.problems.append(Problem(place, path, f"aliases are refused: write the value of *{event.anchor} out"))
            return
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if anchor is not None:
            self.problems.append(Problem(place, path, f"anchors are refused: remove &{anchor}"))
        if tag is not None:
            self.problems.append(Problem(place, path, f"YAML tags are refused (found {tag}): write a plain value"))

    def _place(self, event: yaml.Event) -> str:
        return self.place_of(event.start_mark.line + 1 if event.start_mark else 1)

    def _items(self, path: Path) -> Iterator[Node]:
        for index, event in enumerate(self.events):
            if isinstance(event, yaml.SequenceEndEvent):
                return
            yield self.node(event, (*path, index))

    def _entries(self, path: Path) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self.node(event, (*path, "?"))
            if not isinstance(key, Scalar):
                self.problems.append(Problem(key.place, path, "a key must be a single word"))
                self.node(next(self.events), (*path, "?"))
                continue
            value = self.node(next(self.events), (*path, key.text))
            value.place = key.place
            if key.text in entries:
                first = entries[key.text].place
                self.problems.append(Problem(key.place, (*path, key.text), f"is given twice (first at {first})"))
                continue
            entries[key.text] = value
        return entries


def natural_value(text: str) -> bool | int | float | str | None:
    """What an unquoted scalar says by itself: nothing, true/false, a number (1e-4 too), or text."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def scalar_value(scalar: Scalar, accepted: frozenset[type]) -> bool | int | float | str | None:
    """Value of a scalar in a field that takes the `accepted` types.

    A text field keeps the text as written (a revision 1e10 stays text); yes/no/on/off are booleans in a
    boolean field only; 1e3 is whole where only whole numbers are taken. A value of another type is returned
    as it is and refused by the schema.
    """
    if scalar.is_quoted:
        return scalar.text
    value = natural_value(scalar.text)
    if value is None or type(value) in accepted:
        return value
    if str in accepted:
        return scalar.text
    if bool in accepted and isinstance(value, str):
        return _WORD_BOOLS.get(value.lower(), value)
    if int in accepted and float not in accepted and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


class PlainDumper(yaml.SafeDumper):
    """Writes what `natural_value` reads back: quotes every text that it would take for something else."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_str(dumper: PlainDumper, text: str) -> yaml.ScalarNode:
    looks_otherwise = natural_value(text) != text or text.lower() in _WORD_BOOLS
    # PyYAML's other styles lose unusual line breaks (U+0085, U+2028)
    style = '"' if looks_otherwise or not text.isprintable() else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


PlainDumper.add_representer(str, _represent_str)
