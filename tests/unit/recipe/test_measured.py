"""Names of what is measured in training, and rules about what may decide."""

from __future__ import annotations

from typing import get_args

import pytest

from whet.errors import RecipeError
from whet.evaluation.metrics import METRICS
from whet.recipe import parse_recipe
from whet.recipe.explain import explain_recipe
from whet.recipe.measured import (
    HIGHER_IS_BETTER,
    Measured,
    best_is_higher,
    best_name,
    chosen_on_verdict_rows,
    measured_names,
    shown_once,
)
from whet.recipe.schema import MetricName

HEAD = "name: a\noutput: b\ndata: {train: [{source: r.jsonl}], validation: [{source: v.jsonl}]}\n"
BARE = "name: a\noutput: b\ndata: {train: [{source: r.jsonl}]}\n"


def sets(*entries: str) -> str:
    listed = [f"{{source: {{source: e{n}.jsonl}}, {entry}}}" for n, entry in enumerate(entries)]
    return f"evaluate: [{', '.join(listed)}]\n"


def test_directions_are_those_of_the_metrics_and_none_is_forgotten():
    assert set(HIGHER_IS_BETTER) == set(get_args(MetricName)) == set(METRICS)
    assert {name: metric.higher_is_better for name, metric in METRICS.items()} == HIGHER_IS_BETTER


def test_one_set_has_short_names_beside_the_validation_rows():
    recipe = parse_recipe(HEAD + sets("name: sums, every: 5, metrics: [answer_accuracy, loss, perplexity]"))
    of_set = {name: what.metric for name, what in measured_names(recipe).items() if what.dataset == "sums"}
    assert of_set == {
        "answer_accuracy": "answer_accuracy", "sums/loss": "loss", "sums/perplexity": "perplexity",
        "stop_rate": "stop_rate",
    }  # fmt: skip
    assert measured_names(recipe)["loss"] == Measured(dataset=None, metric="loss")
    alone = parse_recipe(BARE + sets("name: sums, every: 5, metrics: [loss, perplexity]"))
    assert set(measured_names(alone)) == {"loss", "perplexity", "stop_rate"}


def test_of_several_sets_the_first_main_one_that_has_a_metric_has_the_short_name():
    recipe = parse_recipe(
        HEAD
        + sets(
            "name: other, every: 5, role: other",
            "name: silent, metrics: [bleu]",
            "name: first, every: 5, metrics: [token_f1]",
            "name: second, every: 9",
        )
    )
    names = {name: what.dataset for name, what in measured_names(recipe).items()}
    assert names == {
        "loss": None, "token_accuracy": None,
        "token_f1": "first", "first/token_f1": "first", "stop_rate": "first", "first/stop_rate": "first",
        "answer_accuracy": "second", "second/answer_accuracy": "second", "second/stop_rate": "second",
        "other/answer_accuracy": "other", "other/stop_rate": "other",
    }  # fmt: skip


def test_a_set_without_a_main_role_has_the_short_name_where_no_main_set_is_answered():
    recipe = parse_recipe(BARE + sets("name: main", "name: choice, every: 5, role: other"))
    assert {name: what.dataset for name, what in measured_names(recipe).items()} == {
        "answer_accuracy": "choice", "stop_rate": "choice"
    }  # fmt: skip


@pytest.mark.parametrize("metric", ["eval/answer_accuracy", "eval/sums/answer_accuracy", "answer_accuracy"])
def test_what_is_best_may_be_named_short_or_long(metric):
    recipe = parse_recipe(HEAD + sets("name: sums, every: 5") + f"train: {{best_metric: {metric}}}\n")
    assert best_name(recipe) == "answer_accuracy" and best_is_higher(recipe)


def test_a_metric_without_a_direction_takes_the_recipes():
    text = HEAD + sets("name: sums, every: 5, metrics: [answer_length]")
    for direction in ("lower", "higher"):
        train = f"train: {{best_metric: eval/answer_length, best_direction: {direction}}}\n"
        assert best_is_higher(parse_recipe(text + train)) == (direction == "higher")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BARE + "train: {final: best}\n", "eval/loss is never measured: name validation rows in data.validation"),
        (BARE + "train: {patience: 2}\n", "this recipe measures nothing while it trains"),
        (BARE + "train: {best_metric: eval/answer_accuracy}\n", "set every on a set of evaluate with answer_accur"),
        (
            HEAD + sets("name: sums") + "train: {best_metric: eval/sums/bleu}\n",
            "set every on the set sums of evaluate with bleu among its metrics; "
            "this recipe measures eval/loss, eval/token_accuracy while it trains",
        ),
        (HEAD + "train: {best_metric: eval/bluu}\n", "no measurement has this name (metrics are answer_accura"),
        (HEAD + "train: {best_direction: higher}\n", "is higher, but a lower loss is better: remove it"),
        (
            HEAD + sets("name: sums, every: 5") + "train: {best_metric: eval/stop_rate, best_direction: lower}\n",
            "is lower, but a higher stop_rate is better: remove it",
        ),
        (
            HEAD + sets("name: s, every: 5, metrics: [answer_length]") + "train: {best_metric: eval/answer_length}\n",
            "train.best_direction: must be said of answer_length",
        ),
        (
            HEAD + sets("name: s, every: 5, metrics: [seconds_per_example]")
            + "train: {best_metric: eval/seconds_per_example}\n",
            "cannot be the clock's",
        ),
        (HEAD + sets("name: sums, max_rows: 5"), "evaluate.0.max_rows: does nothing without every"),
    ],
)  # fmt: skip
def test_a_best_that_is_never_measured_or_has_no_direction_is_refused(text, expected):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml")
    assert expected in str(caught.value)


def test_without_held_out_rows_and_without_a_wish_nothing_is_best_and_nothing_is_refused():
    assert best_name(parse_recipe(BARE)) is None


@pytest.mark.parametrize(
    ("entry", "train", "expected"),
    [
        ("name: sums, every: 5", "best_metric: eval/answer_accuracy, final: best", "sums"),
        ("name: sums, every: 5", "best_metric: eval/answer_accuracy, patience: 2", "sums"),
        ("name: sums, every: 5", "best_metric: eval/answer_accuracy", None),
        ("name: sums, every: 5", "final: best", None),
    ],
)
def test_a_verdict_on_rows_that_chose_the_weights_is_said_to_flatter(entry, train, expected):
    recipe = parse_recipe(HEAD + sets(entry) + f"train: {{{train}}}\n")
    assert chosen_on_verdict_rows(recipe) == expected
    assert any("flatters" in sentence for sentence in explain_recipe(recipe)) == (expected is not None)


def test_the_explanation_says_what_is_best_and_how_the_run_ends():
    text = HEAD + sets("name: sums, every: 50, max_rows: 20")
    sentences = explain_recipe(parse_recipe(text + "train: {patience: 3, final: best}\n"))
    assert "The model in training answers sums every 50 steps (its first 20 rows)." in sentences
    assert (
        "Keeps the best checkpoint by eval/loss, lower is better; ends after 3 measurements without a new best; "
        "ends with the best weights." in sentences
    )


def test_of_several_sets_the_numbers_of_the_first_are_shown_once():
    measured = {"loss": 0.5, "answer_accuracy": 0.25, "sums/answer_accuracy": 0.25, "lists/answer_accuracy": 0.75}
    assert shown_once(measured) == {name: measured[name] for name in measured if name != "answer_accuracy"}
    other = {"loss": 0.5, "token_accuracy": 0.25, "sums/answer_accuracy": 0.25, "sums/loss": 0.75}
    assert shown_once(other) == other, "another metric's value, or another value of that metric"
