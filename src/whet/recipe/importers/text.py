"""An import as text: the recipe with the foreign key beside each setting, and the three lists above it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from whet.recipe.fields import field_types, item_type, section_of
from whet.recipe.importers.sheet import Entry
from whet.recipe.schema import Recipe
from whet.recipe.yaml_tree import PlainDumper

_WIDTH = 100_000


def in_schema_order(tree: Any, annotation: Any = Recipe) -> Any:
    """`tree` with its keys in the order of the schema."""
    if isinstance(tree, list):
        return [in_schema_order(item, item_type(annotation, index)) for index, item in enumerate(tree)]
    section = annotation if annotation is Recipe else section_of(annotation)
    if not isinstance(tree, dict) or section is None:
        return tree
    order = list(field_types(section))
    keys = sorted(tree, key=lambda key: order.index(key) if key in order else len(order))
    return {key: in_schema_order(tree[key], item_type(annotation, key)) for key in keys}


def recipe_text(tree: dict[str, Any], mapped: Sequence[Entry]) -> str:
    """YAML of `tree`, each setting followed by the foreign keys that it comes from."""
    origins: dict[str, list[str]] = {}
    for entry in mapped:
        origins.setdefault(entry.whet_key, []).append(entry.key)
    return "\n".join(_lines(tree, "", origins, "")) + "\n"


def _lines(node: dict[str, Any], path: str, origins: dict[str, list[str]], indent: str) -> Iterator[str]:
    for key, value in node.items():
        whet_key = f"{path}.{key}" if path else key
        said = f"  # {', '.join(origins[whet_key])}" if whet_key in origins else ""
        if isinstance(value, dict) and value and not said:
            yield f"{indent}{key}:"
            yield from _lines(value, whet_key, origins, indent + "  ")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            yield f"{indent}{key}:{said}"
            for index, item in enumerate(value):
                first, *others = _lines(item, f"{whet_key}.{index}", origins, indent + "    ")
                yield f"{indent}  - {first.strip()}"
                yield from others
        else:
            yield f"{indent}{key}: {_inline(value)}{said}"


def _inline(value: Any) -> str:
    text = yaml.dump(value, Dumper=PlainDumper, default_flow_style=True, allow_unicode=True, width=_WIDTH)
    return text.removesuffix("...\n").strip()


def list_lines(
    mapped: Sequence[Entry], no_effect: Sequence[Entry], unmapped: Sequence[Entry], notes: Sequence[str]
) -> list[str]:
    """The account for people: what could not be mapped first, then what was, then what has no effect."""
    lines = _block("could not be mapped", [f"{_value(e)}: {e.reason}" for e in unmapped])
    lines += _block("mapped", [f"{_value(e)} -> {e.whet_key} = {_inline(e.whet_value)}{_because(e)}" for e in mapped])
    lines += _block("no effect here", [f"{_value(e)}: {e.reason}" for e in no_effect])
    return lines + _block("said by nothing in the file", list(notes))


def _block(title: str, lines: list[str]) -> list[str]:
    return [f"{title}: {len(lines)}", *(f"  {' '.join(line.split())}" for line in lines)]


def _value(entry: Entry) -> str:
    return f"{entry.key}: {_inline(entry.value)}"


def _because(entry: Entry) -> str:
    return f" ({entry.reason})" if entry.reason else ""
