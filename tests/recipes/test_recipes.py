"""Every recipe in recipes/ loads, has no problem, survives a round trip and says how to run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from whet.cli.preview import preview_run
from whet.recipe import dump_recipe, find_problems, load_recipe, parse_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_recipe_loads_resolves_and_survives_a_round_trip(path: Path) -> None:
    recipe = load_recipe(path)
    assert find_problems(recipe) == []
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert preview_run(recipe, num_rows=1000) is not None


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_recipe_says_how_to_run_it(path: Path) -> None:
    header = path.read_text(encoding="utf-8").split("version:")[0]
    assert f"whet train {path.relative_to(ROOT)}" in header
    assert "easured" in header
