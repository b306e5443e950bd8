"""Where every setting of a run came from, for the report: as recorded, else what is not the default.

Read from RUN/settings.json; a run of an earlier whet, or one that was not begun by `whet train`, has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from whet.errors import RecipeError
from whet.recipe import parse_recipe
from whet.recipe.provenance import DEFAULT, PLAN_MEANINGS, explain_values

_NOT_RECORDED = "not the default; where it was set was not recorded"
_DERIVED = "derived when the run began"
_MAX_ROWS = 600
_MAX_CHARACTERS = 1000


def setting_rows(recipe: str, settings: Mapping[str, Any], plan: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(key, value, origin, whether somebody set it), what was set first, derived values last."""
    if settings:
        rows = [(key, each.get("value"), str(each.get("origin", ""))) for key, each in settings.items()
                if isinstance(each, dict)]  # fmt: skip
    else:
        rows = _by_default(recipe)
    found = [(key, _written(value), origin, origin != DEFAULT) for key, value, origin in rows]
    derived = [(f"plan.{name}", _written(plan[name]), f"{_DERIVED}: {PLAN_MEANINGS[name]}", False)
               for name in PLAN_MEANINGS if plan.get(name) is not None]  # fmt: skip
    return (sorted(found, key=lambda row: not row[3]) + derived)[:_MAX_ROWS]


def _by_default(recipe: str) -> list[tuple[str, Any, str]]:
    """The recipe in a run folder has every key written out: only a value that no default has tells that it was set."""
    try:
        parsed = parse_recipe(recipe, "recipe.yaml")
        plain = _defaults(parsed.name)
    except RecipeError:
        return []
    return [
        (each.key, each.value, DEFAULT if plain.get(each.key, ...) == each.value else _NOT_RECORDED)
        for each in explain_values(parsed, recipe, "recipe.yaml")
    ]


def _defaults(name: str) -> dict[str, Any]:
    """Key -> value of a recipe in which nothing is set but what must be."""
    text = json.dumps({"name": name, "output": ".", "data": {"train": [{"source": "rows.jsonl"}]}})
    return {each.key: each.value for each in explain_values(parse_recipe(text), text, "") if each.origin == DEFAULT}


def _written(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]} ..."
