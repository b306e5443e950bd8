"""Dotted overrides (`optim.lr=1e-4`, `evaluate.0.batch_rows=8`) put over a recipe's tree."""

from __future__ import annotations

import re
from collections.abc import Sequence

from whet.errors import RecipeError
from whet.recipe.fields import field_types, list_type, scalar_types, type_at
from whet.recipe.problems import Path, Problem, dotted
from whet.recipe.schema import Adapter
from whet.recipe.yaml_tree import MAX_DEPTH, ListNode, MapNode, Node, Scalar, natural_value, parse_tree

PLACE = "command line:"
_POSITION = re.compile(r"[0-9]{1,9}")

_ADAPTER_SETTINGS: tuple[Path, ...] = tuple(("adapter", key) for key in field_types(Adapter) if key != "method")
REPLACED: dict[tuple[Path, str | None], tuple[Path, ...]] = {
    (("adapter", "method"), "none"): _ADAPTER_SETTINGS,
    (("train", "max_steps"), None): (("train", "fit_seconds"),),
    (("train", "fit_seconds"), None): (("train", "max_steps"),),
}
"""(key, value or any) on the command line -> keys of the file that it takes the place of."""


def apply_overrides(root: MapNode, overrides: Sequence[str]) -> list[Problem]:
    """Change `root` in place, later overrides win; returns what could not be applied."""
    problems: list[Problem] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        path: Path = tuple(int(part) if _POSITION.fullmatch(part) else part for part in key.strip().split("."))
        if len(path) > MAX_DEPTH:
            problems.append(Problem(PLACE, (), f"a key has {MAX_DEPTH} parts at most (found {len(path):,})"))
            continue
        if not equals or "" in path:
            problems.append(Problem(PLACE, (), f"an override is key=value, such as optim.lr=1e-4 (found {text})"))
            continue
        try:
            node, found = _value_node(path, value)
        except RecipeError as error:
            problems.append(Problem(PLACE, path, f"{error.what} (found {value})"))
            continue
        problems += [Problem(PLACE, path + problem.path, problem.what) for problem in found]
        refusal = _put(root, path, node)
        if refusal is not None:
            problems.append(refusal)
            continue
        _drop_replaced(root, path, node)
    return problems


def _value_node(path: Path, text: str) -> tuple[Node, list[Problem]]:
    """The value as YAML; for a pure text field, the text as typed (so that `a: b` needs no second quotes)."""
    annotation = type_at(path)
    takes_text_only = scalar_types(annotation) in ({str}, {str, type(None)}) and list_type(annotation) is None
    if takes_text_only and text[:1] not in ("'", '"') and natural_value(text) is not None:
        return Scalar(text, False, PLACE), []
    return parse_tree(text, lambda line: PLACE)


def _put(root: MapNode, path: Path, value: Node) -> Problem | None:
    node: Node = root
    for depth, part in enumerate(path):
        done, is_last = path[:depth], depth == len(path) - 1
        inner = value if is_last else _empty(path[depth + 1])
        if isinstance(node, ListNode):
            if not isinstance(part, int):
                return Problem(PLACE, path, f"{dotted(done)} is a list: write {dotted((*done, 0, *path[depth:]))}")
            if part > len(node.items):
                return Problem(PLACE, path, f"{dotted(done)} has {len(node.items)} entries, counted from 0")
            if part == len(node.items):
                node.items.append(inner)
            elif is_last or _is_null(node.items[part]):
                node.items[part] = inner
            node = node.items[part]
        elif isinstance(node, MapNode):
            key = str(part)
            if is_last or key not in node.entries or _is_null(node.entries[key]):
                node.entries[key] = inner
            node = node.entries[key]
        else:
            return Problem(PLACE, path, f"{dotted(done)} holds a value, not a section of keys")
    return None


def _empty(next_part: str | int) -> Node:
    """A list or section to hold `next_part`."""
    return ListNode([], PLACE) if isinstance(next_part, int) else MapNode({}, PLACE)


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and not node.is_quoted and natural_value(node.text) is None


def _drop_replaced(root: MapNode, path: Path, value: Node) -> None:
    if not isinstance(value, Scalar) or _is_null(value):
        return
    for section, key in REPLACED.get((path, value.text), REPLACED.get((path, None), ())):
        entries = root.entries.get(str(section))
        if isinstance(entries, MapNode) and key in entries.entries and entries.entries[str(key)].place != PLACE:
            del entries.entries[str(key)]
