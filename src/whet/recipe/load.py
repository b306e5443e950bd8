"""YAML and dotted overrides -> Recipe, strictly; every problem is told at once with its file:line."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path as FilePath
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from whet.errors import RecipeError
from whet.recipe import suggest
from whet.recipe.checks import find_problems
from whet.recipe.fields import choices, describe, field_infos, item_type, list_type, scalar_types, section_of, type_at
from whet.recipe.overrides import apply_overrides
from whet.recipe.problems import Path, Problem, raise_together
from whet.recipe.schema import Recipe
from whet.recipe.yaml_tree import MAX_BYTES, ListNode, MapNode, Node, PlainDumper, Scalar, parse_tree, scalar_value


def load_recipe(path: str | FilePath, overrides: Sequence[str] = ()) -> Recipe:
    """Recipe of a YAML file with `overrides` such as `optim.lr=1e-4` or `data.train.0.rows=100` put over it.

    RecipeError lists every unknown key, wrong value, missing key and impossible combination.
    """
    file = FilePath(path)
    if not file.is_file():
        raise RecipeError("is no recipe file", where=str(path), mend=_nearest_file(file))
    if file.stat().st_size > MAX_BYTES:
        raise RecipeError(f"is larger than {MAX_BYTES:,} bytes", where=str(path), mend="rows belong in a data file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not UTF-8 text (byte {error.start})", where=str(path)) from error
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return parse_recipe(text, str(path), overrides)


def parse_recipe(text: str, file_name: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """Recipe of a YAML text; `file_name` is the place named in errors."""
    root, problems = parse_tree(text, lambda line: f"{file_name}:{line}")
    if not isinstance(root, MapNode):
        found = "nothing" if _is_empty(root) else found_words(root)
        raise RecipeError(f"a recipe is a list of `key: value` lines (found {found})", where=file_name)
    problems += apply_overrides(root, overrides)
    known_bad = {problem.path for problem in problems}
    recipe, invalid = _validate(root)
    problems += [problem for problem in invalid if problem.path not in known_bad]
    bad = [problem.path for problem in problems if problem.path]
    for finding in find_problems(recipe) if recipe is not None else ():
        if not any(_touch(path, other) for path in finding.paths for other in bad):
            path = finding.paths[0]
            problems.append(Problem(_place(root, path), path, finding.what))
    raise_together(problems, file_name)
    assert recipe is not None
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """YAML that loads as an equal recipe. Keys without a value and the settings of an absent adapter are left out."""
    tree = _adapter().dump_python(recipe, mode="json", exclude_none=True)
    if recipe.adapter.method == "none":
        tree["adapter"] = {"method": "none"}
    return yaml.dump(tree, Dumper=PlainDumper, sort_keys=False, allow_unicode=True, width=100_000)


@cache
def _adapter() -> TypeAdapter[Recipe]:
    return TypeAdapter(Recipe)


def _validate(root: MapNode) -> tuple[Recipe | None, list[Problem]]:
    """The recipe and what the schema refuses; with refusals, the recipe that is left without the refused keys.

    That remainder serves only to find impossible combinations in the same pass; None if it is no recipe.
    """
    tree = _plain(root, Recipe)
    try:
        return _adapter().validate_json(json.dumps(tree), strict=True), []
    except ValidationError as error:
        problems = _translate(root, error)
    for problem in problems:
        if problem.path:
            _remove(tree, problem.path)
    try:
        return _adapter().validate_json(json.dumps(tree), strict=True), problems
    except ValidationError:
        return None, problems


def _plain(node: Node, annotation: Any) -> Any:
    """Plain values for the schema, each scalar read by the type of its field; an empty section has no keys."""
    if isinstance(node, MapNode):
        return {key: _plain(value, item_type(annotation, key)) for key, value in node.entries.items()}
    if isinstance(node, ListNode):
        return [_plain(item, item_type(annotation, index)) for index, item in enumerate(node.items)]
    value = scalar_value(node, scalar_types(annotation))
    if value is None and not node.is_quoted and type(None) not in scalar_types(annotation):
        if list_type(annotation) is not None:
            return []
        if section_of(annotation) is not None:
            return {}
    return value


def _translate(root: MapNode, error: ValidationError) -> list[Problem]:
    """Pydantic's errors in whet's words, one per path, in the order of the file."""
    problems: dict[Path, list[Problem]] = {}
    for details in error.errors(include_url=False, include_context=False, include_input=False):
        path, is_whole = _real_path(root, details["loc"])
        if details["type"] == "missing" and isinstance(details["loc"][-1], str):
            path = (*path, str(details["loc"][-1]))
            what = [Problem(_place(root, path), path, f"is missing: {_meaning(path)}")]
        elif details["type"] == "unexpected_keyword_argument" and is_whole:
            what = [Problem(_place(root, p), p, w) for p, w in suggest.unknown_key(path, _node_at(root, path))]
        else:
            what = [Problem(_place(root, path), path, _wrong_value(path, _node_at(root, path)))]
        problems.setdefault(path, what)
    order = {path: number for number, path in enumerate(_paths(root, ()))}
    # of a union, each member that did not fit has an error: the one that points deepest is kept
    above = {path[:depth] for path in problems for depth in range(len(path))}
    kept = [group for path, group in problems.items() if path not in above]
    flat = [problem for group in kept for problem in group]
    return sorted(flat, key=lambda problem: order.get(problem.path, -1))


def _wrong_value(path: Path, node: Node) -> str:
    annotation = type_at(path)
    text = f"must be {describe(annotation)} (found {found_words(node)})"
    if not isinstance(node, Scalar):
        is_sections = isinstance(node, MapNode) and list_type(annotation) is not None
        return f"{text}; put `- ` before the first key" if is_sections else text
    near = difflib.get_close_matches(node.text.lower(), choices(annotation), n=1)
    if near:
        return f"{text}, did you mean {near[0]}?"
    if node.is_quoted and scalar_types(annotation) & {int, float, bool}:
        return f"{text}; numbers and true/false stand without quotes"
    if list_type(annotation) is not None and not _is_empty(node):
        return f"{text}; a list is written [{node.text}]"
    if section_of(annotation) is not None and re.match(r"\w+:\S", node.text):
        return f"{text}; put a space after the colon"
    return text


def found_words(node: Node) -> str:
    """What stands there, shortened: `nothing`, `0`, `the text "2e-4"`, `a list of 3`."""
    if isinstance(node, MapNode):
        return "a section with " + (", ".join(list(node.entries)[:3]) or "no keys")
    if isinstance(node, ListNode):
        return f"a list of {len(node.items)}"
    if _is_empty(node):
        return "nothing"
    text = node.text if len(node.text) <= 40 else node.text[:37] + "..."
    return f"the text {json.dumps(text, ensure_ascii=False)}" if node.is_quoted else text


def _is_empty(node: Node) -> bool:
    return isinstance(node, Scalar) and not node.is_quoted and node.text == ""


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(node, MapNode):
        return node.entries.get(str(part)) if isinstance(part, str) else None
    if isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
        return node.items[part]
    return None


def _real_path(root: Node, location: tuple[str | int, ...]) -> tuple[Path, bool]:
    """The part of pydantic's location that exists in the file (it adds names of union members), and if that is all."""
    node, path = root, ()
    for part in location:
        inner = _child(node, part)
        if inner is not None:
            node, path = inner, (*path, part)  # type: ignore[assignment]
    return path, len(path) == len(location)


def _node_at(root: Node, path: Path) -> Node:
    node = root
    for part in path:
        node = _child(node, part) or node
    return node


def _place(root: Node, path: Path) -> str:
    """Place of the key, or of the nearest section around a key that is not there."""
    return _node_at(root, _real_path(root, path)[0]).place


def _paths(node: Node, prefix: Path) -> list[Path]:
    if isinstance(node, Scalar):
        return [prefix]
    inner: list[tuple[str | int, Node]] = []
    inner += node.entries.items() if isinstance(node, MapNode) else enumerate(node.items)
    return [prefix] + [path for part, child in inner for path in _paths(child, (*prefix, part))]


def _remove(tree: Any, path: Path) -> None:
    """Take the key at `path` out of a plain tree; a list keeps its entries, so that positions stay true."""
    *way, last = path
    for part in way:
        holds = part in tree if isinstance(tree, dict) else isinstance(tree, list) and part in range(len(tree))
        if not holds:
            return
        tree = tree[part]
    if isinstance(tree, dict):
        tree.pop(last, None)


def _touch(one: Path, other: Path) -> bool:
    """Whether one path lies on or below the other."""
    num = min(len(one), len(other))
    return one[:num] == other[:num]


def _meaning(path: Path) -> str:
    """What belongs there: the key's docstring, or that of the section that it is."""
    info = field_infos(section_of(type_at(path[:-1])) or Recipe)[str(path[-1])]
    section = section_of(type_at(path))
    return _one_line(info.description or (section.__doc__ if section is not None else ""))


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _nearest_file(file: FilePath) -> str | None:
    if (file / "recipe.yaml").is_file():
        return f"did you mean {file / 'recipe.yaml'}?"
    if file.is_dir():
        return "name a .yaml file in this folder"
    if not file.parent.is_dir():
        return f"there is no folder {file.parent}"
    names = sorted(entry.name for entry in file.parent.iterdir() if entry.suffix in (".yaml", ".yml"))
    near = difflib.get_close_matches(file.name, names, n=1, cutoff=0.5)
    return f"did you mean {file.parent / near[0]}?" if near else "whet needs the path of a .yaml file"
