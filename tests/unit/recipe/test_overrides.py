"""Command-line overrides are read like the file, later ones win, and their problems name the command line."""

from __future__ import annotations

import pytest

from whet.errors import RecipeError
from whet.recipe import Recipe, parse_recipe

BASE = """\
name: small
output: runs/small
data:
  train:
    - source: rows.jsonl
"""


def load(*overrides: str, base: str = BASE) -> Recipe:
    return parse_recipe(base, "r.yaml", overrides)


def test_overrides_are_typed_like_the_file():
    recipe = load("optim.lr=1e-4", "data.train.0.rows=100", "seed=7", "adapter.targets=[q_proj, v_proj]", "name=12:30")
    assert (recipe.optim.lr, recipe.data.train[0].rows, recipe.seed) == (1e-4, 100, 7)
    assert recipe.adapter.targets == ("q_proj", "v_proj")
    assert recipe.name == "12:30"


def test_the_last_of_two_overrides_wins():
    assert load("seed=1", "seed=2").seed == 2


def test_a_list_grows_by_one_entry_at_its_end():
    recipe = load("evaluate.0.name=held", "evaluate.0.source.source=t.jsonl", "evaluate.0.batch_rows=8")
    assert (recipe.evaluate[0].name, recipe.evaluate[0].batch_rows) == ("held", 8)
    with pytest.raises(RecipeError, match=r"command line: data\.train\.2\.rows: data\.train has 1 entries"):
        load("data.train.2.rows=1")


def test_a_text_field_takes_the_text_as_typed():
    assert load("data.train.0.instruction=Answer: yes # or no").data.train[0].instruction == "Answer: yes # or no"
    assert load("data.train.0.instruction='quoted'").data.train[0].instruction == "quoted"
    assert load("data.train.0.instruction=a=b").data.train[0].instruction == "a=b"


def test_null_takes_a_value_away():
    assert load("train.max_steps=null", base=BASE + "train: {max_steps: 5}\n").train.max_steps is None
    assert load("data.train.0.system=", base=BASE + "      system: be brief\n").data.train[0].system is None


def test_free_options_can_be_set():
    base = BASE.replace("rows.jsonl", "reasoning-gym:basic_arithmetic")
    assert load("data.train.0.options.min_terms=3", "data.train.0.rows=5", base=base).data.train[0].options == {
        "min_terms": 3
    }


def test_a_longer_or_absent_part_replaces_what_it_excludes():
    timed = BASE + "train: {fit_seconds: 60}\n"
    assert load("train.max_steps=5", base=timed).train.fit_seconds is None
    assert load("train.max_steps=null", base=timed).train.fit_seconds == 60
    adapted = BASE + "adapter: {rank: 64, alpha: 128}\n"
    assert load("adapter.method=none", base=adapted).adapter.rank == 8
    assert load("adapter.method=lora", base=adapted).adapter.rank == 64


def test_settings_given_together_on_the_command_line_still_exclude_each_other():
    with pytest.raises(RecipeError, match="cannot be set together"):
        load("train.max_steps=5", "train.fit_seconds=5")
    with pytest.raises(RecipeError, match=r"adapter\.rank: does nothing"):
        load("adapter.method=none", "adapter.rank=4")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lr=-1", "command line: optim.lr: must be a number, above 0 (found -1)"),
        ("optim.lr", "command line: an override is key=value, such as optim.lr=1e-4 (found optim.lr)"),
        ("=3", "command line: an override is key=value"),
        ("optim..lr=3", "command line: an override is key=value"),
        ("optim.lrr=3", "command line: optim.lrr: unknown key, did you mean optim.lr?"),
        ("lr=3", "command line: lr: unknown key: lr belongs to optim: optim.lr"),
        ("lora_r=3", "command line: lora_r: unknown key: here it is adapter.rank"),
        ("data.train.source=x", "command line: data.train.source: data.train is a list: write data.train.0.source"),
        ("seed.x=1", "command line: seed.x: seed holds a value, not a section of keys"),
        ("optim.lr=[1", "command line: optim.lr: is not YAML"),
        ("optim.lr=!!python/name:os 1", "command line: optim.lr: YAML tags are refused"),
        ("data.train.0=3", "command line: data.train.0: must be a section of keys (found 3)"),
    ],
)
def test_a_bad_override_is_told_with_its_key(override, expected):
    with pytest.raises(RecipeError) as caught:
        load(override, base=BASE + "seed: 3\n")
    assert expected in str(caught.value)
