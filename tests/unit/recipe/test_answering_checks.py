"""Settings of an evaluation set that would do nothing, or leave nothing to compare, are refused with their line."""

from __future__ import annotations

import pytest

from whet.errors import RecipeError
from whet.recipe import parse_recipe

RECIPE = """\
name: small
output: runs/small
data: {train: [{source: train.jsonl}]}
evaluate:
  - name: held
    source: {source: test.jsonl, split: all}
"""


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("top_p: 0.9", "r.yaml:7 evaluate.0.top_p: does nothing with temperature 0"),
        ('stop: ["x", ""]', "r.yaml:7 evaluate.0.stop: has an empty text"),
        ("metrics: []", "r.yaml:7 evaluate.0.metrics: is empty: the verdict rests on the first metric"),
        ("metrics: [loss, bleu, loss]", "r.yaml:7 evaluate.0.metrics: names loss twice"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(setting, message):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"{RECIPE}    {setting}\n", "r.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "settings", [("temperature: 0.7", "top_p: 0.9"), ('stop: ["\\n\\nQuestion:"]',), ("metrics: [loss, bleu]",)]
)
def test_what_can_be_meant_is_taken(settings):
    entry = parse_recipe(RECIPE + "".join(f"    {setting}\n" for setting in settings)).evaluate[0]
    assert entry.name == "held"
