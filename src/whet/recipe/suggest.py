"""Answers to an unknown key: where it belongs, what another tool's name is called here, or the nearest key."""

from __future__ import annotations

import difflib

from whet.recipe.fields import all_keys, field_types, section_of, type_at
from whet.recipe.foreign import foreign_full_name, foreign_name, foreign_section
from whet.recipe.problems import Path, dotted
from whet.recipe.schema import Recipe
from whet.recipe.yaml_tree import MapNode, Node


def unknown_key(path: Path, node: Node) -> list[tuple[Path, str]]:
    """(path, sentence) for an unknown key, and for the keys below it when it is another tool's section."""
    section_answer = foreign_section(path) if isinstance(node, MapNode) else None
    if section_answer is None or not isinstance(node, MapNode):
        return [(path, f"unknown key{_answer(path)}")]
    answers = [(path, f"unknown section{section_answer}")]
    for key, inner in node.entries.items():
        answers += unknown_key((*path, key), inner)
    return answers


def _answer(path: Path) -> str:
    leaf = str(path[-1])
    return foreign_full_name(path) or _belongs_to(leaf) or foreign_name(leaf) or _nearest(path, leaf)


def _belongs_to(leaf: str) -> str | None:
    homes = [key for key in all_keys() if key[-1] == leaf]
    return f": {leaf} belongs to " + " or ".join(map(_home, homes[:3])) if homes else None


def _home(key: Path) -> str:
    return f"{dotted(key[:-1])}: {dotted(key)}" if len(key) > 1 else f"the top of the recipe: {key[0]}"


def _nearest(path: Path, leaf: str) -> str:
    section = section_of(type_at(path[:-1])) or Recipe
    own = list(field_types(section))
    leaves = {str(key[-1]): key for key in reversed(all_keys())}
    # a slip of the pen in another section's key is nearer than a word of this one that merely sounds alike
    if near := difflib.get_close_matches(leaf, own, n=1, cutoff=0.75):
        return f", did you mean {dotted((*path[:-1], near[0]))}?"
    if near := difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.75):
        return f", did you mean {dotted(leaves[near[0]])}?"
    if near := difflib.get_close_matches(leaf, own, n=1):
        return f", did you mean {dotted((*path[:-1], near[0]))}?"
    return f"; {dotted(path[:-1]) or 'a recipe'} takes {', '.join(own)}"
