"""A drafted recipe loads, says what it was made for, and its numbers follow from what was seen."""

from __future__ import annotations

import pytest

from whet.errors import RecipeError
from whet.recipe import parse_recipe
from whet.recipe.draft import (
    KINDS,
    MEANINGS,
    METRICS,
    Sets,
    Wishes,
    asked_form,
    draft_recipe,
    learning_rate,
    max_length,
    max_new_tokens,
    num_epochs,
)

SETS = Sets(
    train={"source": "faq-data/train.jsonl", "split": "all", "format": "question_answer"},
    validation={"source": "faq-data/validation.jsonl", "split": "all", "format": "question_answer"},
    held_out={"source": "faq-data/held_out.jsonl", "split": "all", "format": "question_answer"},
    num_train=130,
    story="200 rows of faq.csv",
)


def wishes(**changes) -> Wishes:
    settled = {
        "name": "faq", "output": "runs/faq", "seed": 42, "minutes": 10.0, "model_id": "smollm2-135m-instruct",
        "num_parameters": 134_515_008, "max_positions": 8192, "has_chat_template": True, "sets": SETS, "kind": "long",
        "longest_row_bytes": 700, "longest_answer_bytes": 400,
    }  # fmt: skip
    return Wishes(**(settled | changes))


def draft(**changes):
    return parse_recipe(draft_recipe(wishes(**changes)), "faq.yaml")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_answers_gives_a_recipe_that_loads(kind):
    recipe = draft(kind=kind, choices=("yes", "no"), wants_bare_number=True)
    assert recipe.evaluate[0].metrics == METRICS[kind] and kind in MEANINGS
    assert recipe.evaluate[0].judge == ("math_verify" if kind == "formula" else "own")


def test_base_and_tuned_are_told_the_same_form_in_every_set():
    recipe = draft(kind="choice", choices=("yes", "no"))
    told = {source.instruction for source in (*recipe.data.train, *recipe.data.validation, recipe.evaluate[0].source)}
    assert told == {"Answer with one of these and nothing else: yes, no"}
    assert draft(kind="long").data.train[0].instruction is None
    assert asked_form("choice", ["a long label"] * 40) is None


def test_the_time_is_divided_between_training_and_two_models_that_answer():
    recipe = draft(minutes=10.0)
    assert recipe.train.fit_seconds == 360 and recipe.evaluate[0].max_seconds == 90
    assert recipe.train.fit_seconds + 2 * recipe.evaluate[0].max_seconds < 600


def test_the_weights_of_the_lowest_validation_loss_are_the_result():
    recipe = draft()
    assert recipe.train.final == "best" and recipe.train.best_metric == "eval/loss" and recipe.data.validation


def test_few_rows_are_shown_more_often():
    assert [num_epochs(n) for n in (15, 130, 300, 5000, None)] == [10, 7, 3, 3, 3]


def test_large_models_learn_more_slowly():
    assert [learning_rate(n) for n in (134_515_008, 1_700_000_000, 8_000_000_000, None)] == [1e-3, 5e-4, 2e-4, 2e-4]


def test_no_row_is_longer_than_the_recipe_allows_unless_the_model_is_shorter():
    assert max_length(700, 8192) == (896, False)
    assert max_length(700, 512) == (512, True)
    assert draft(max_positions=512).data.over_length == "truncate_prompt"
    assert draft().data.over_length == "drop"


def test_answers_have_room():
    assert [max_new_tokens(n) for n in (2, 400, 100_000)] == [16, 208, 512]


def test_a_base_model_is_asked_without_a_chat_template():
    recipe = draft(has_chat_template=False)
    assert recipe.data.template == "plain" and "{question}" in (recipe.data.prompt or "")


def test_names_that_yaml_would_take_for_something_else_come_through():
    recipe = draft(name="2024", output="runs/no: 1", model_id="./a model #1")
    assert (recipe.name, recipe.output, recipe.model.id) == ("2024", "runs/no: 1", "./a model #1")


def test_comments_stand_where_they_belong_and_are_not_keys():
    text = draft_recipe(wishes(heading=["Written by whet init from faq.csv.", "", "  whet train faq.yaml"]))
    assert text.startswith("# Written by whet init from faq.csv.\n#\n#   whet train faq.yaml\nversion: 1\n")
    assert "# 200 rows of faq.csv\ndata:" in text


def test_a_recipe_that_trains_on_its_held_out_rows_cannot_be_drafted():
    same = Sets(train=SETS.train, validation=SETS.validation, held_out=SETS.train, num_train=1, story="")
    with pytest.raises(RecipeError, match="shares rows"):
        draft(sets=same)
