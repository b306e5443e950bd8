"""Every value is told with the line, the command line or the default it came from."""

from __future__ import annotations

from dataclasses import fields

import pytest

from whet.recipe import parse_recipe
from whet.recipe.fields import all_keys
from whet.recipe.problems import dotted
from whet.recipe.provenance import PLAN_MEANINGS, explain_plan, explain_values
from whet.types import RunPlan

TEXT = """\
name: a
output: runs/a
adapter: {rank: 4}
data:
  train:
    - source: a.jsonl
    - source: b.jsonl
      fields: {question: ask}
optim:
  lr: 1e-3
train:
  fit_seconds: 60
"""
OVERRIDES = ["optim.lr=5e-4", "train.max_steps=7", "data.train.1.rows=9"]


@pytest.fixture
def found():
    recipe = parse_recipe(TEXT, "a.yaml", OVERRIDES)
    return {each.key: each for each in explain_values(recipe, TEXT, "a.yaml", OVERRIDES)}


@pytest.mark.parametrize(
    ("key", "value", "origin"),
    [
        ("name", "a", "a.yaml:1"),
        ("adapter.rank", 4, "a.yaml:3"),
        ("adapter.alpha", 16.0, "default"),
        ("data.train.0.source", "a.jsonl", "a.yaml:6"),
        ("data.train.1.fields", {"question": "ask"}, "a.yaml:8"),
        ("data.train.1.rows", 9, "command line"),
        ("data.train.0.rows", None, "default"),
        ("optim.lr", 5e-4, "command line"),
        ("train.max_steps", 7, "command line"),
        ("train.fit_seconds", None, "default"),  # replaced by max_steps
        ("evaluate", (), "default"),
    ],
)
def test_a_value_names_its_origin(found, key, value, origin):
    assert (found[key].value, found[key].origin) == (value, origin)


def test_every_key_of_the_schema_is_explained_in_its_own_words(found):
    of_lists = ("evaluate.", "callbacks.", "data.validation.")
    plain = [key for path in all_keys() if not (key := dotted(path)).startswith(of_lists)]
    sections = {
        "model",
        "adapter",
        "data",
        "batch",
        "optim",
        "train",
        "parallel",
        "data.train",
        "train.guard",
        "tracked_as",
    }
    assert set(plain) - sections <= set(found)
    assert found["optim.lr"].meaning == "Peak learning rate."
    assert all(each.meaning for each in found.values())


def test_every_field_of_a_plan_has_a_meaning():
    assert set(PLAN_MEANINGS) == {field.name for field in fields(RunPlan)}


def test_what_is_not_known_of_a_plan_is_left_out():
    found = explain_plan({"total_steps": 7, "micro_batch": None}, "derived")
    assert [(each.key, each.value, each.origin) for each in found] == [("plan.total_steps", 7, "derived")]
