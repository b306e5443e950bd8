"""Datasets known by name give recipes that load, with held-out rows that are no training rows."""

from __future__ import annotations

import pytest

from whet.data.named_sets import NAMED_SETS, NamedSet, generated_set
from whet.recipe import parse_recipe
from whet.recipe.draft import Wishes, draft_recipe

ALL = {**NAMED_SETS, "reasoning-gym:chain_sum": generated_set("reasoning-gym:chain_sum")}


@pytest.mark.parametrize("name", ALL)
def test_each_gives_a_recipe_without_a_problem(name):
    found: NamedSet = ALL[name]
    recipe = parse_recipe(
        draft_recipe(
            Wishes(
                name="a", output="runs/a", seed=1, minutes=10, model_id="smollm2-135m-instruct",
                num_parameters=134_515_008, max_positions=8192, has_chat_template=True, sets=found.sets,
                kind=found.kind, longest_row_bytes=found.longest_row_bytes,
                longest_answer_bytes=found.longest_answer_bytes,
            )
        )
    )  # fmt: skip
    assert recipe.evaluate[0].source.source and recipe.data.validation
