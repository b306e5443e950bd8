"""Which measurement is the best, and when enough of them were not."""

import json
import math

import pytest

from whet.recipe import parse_recipe
from whet.train.best import Best, best_of
from whet.train.callbacks import EvalRecord

RECIPE = """\
name: a
output: b
data: {train: [{source: rows.jsonl}], validation: [{source: held.jsonl}]}
train: {%s}
evaluate: [{name: sums, source: {source: sums.jsonl}, every: 5, metrics: [answer_accuracy, perplexity]}]
"""


def _measured(step, value, name="loss"):
    return EvalRecord(step=step, metrics={name: value}, seconds=0.1)


def _note(best, values, name="loss"):
    return [best.note(_measured(step, value, name)) for step, value in enumerate(values)]


def test_the_best_is_the_lowest_loss_and_the_first_of_equals():
    best = Best()
    assert _note(best, [3.0, 2.0, 2.0, 2.5, 1.0]) == [True, True, False, False, True]
    assert (best.step, best.value) == (4, 1.0)


def test_the_best_is_the_highest_where_higher_is_better():
    best = Best(name="answer_accuracy", is_higher_better=True)
    assert _note(best, [0.0, 0.5, 0.25, 0.5, 0.75], "answer_accuracy") == [True, True, False, False, True]
    assert best.sentence() == "checkpoint-best is step 4: eval/answer_accuracy 0.75 (higher is better)"


@pytest.mark.parametrize("is_higher_better", [False, True])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_the_best_and_costs_patience(is_higher_better, odd):
    best = Best(is_higher_better=is_higher_better, patience=2)
    assert _note(best, [odd]) == [False]
    assert (best.step, best.sentence()) == (None, "")
    best.note(_measured(1, 1.0))
    assert not best.note(_measured(2, odd)) and (best.step, best.value) == (1, 1.0)
    best.note(_measured(3, odd))
    assert best.is_out_of_patience


def test_an_improvement_must_be_larger_than_the_recipe_says():
    best = Best(min_improvement=0.25)
    assert _note(best, [2.0, 1.75, 1.5, 1.25, 1.0]) == [True, False, True, False, True]


@pytest.mark.parametrize(("patience", "stops_at"), [(1, 3), (2, 4), (3, 5), (4, None), (None, None)])
def test_patience_is_the_number_of_measurements_in_a_row_without_a_new_best(patience, stops_at):
    best = Best(patience=patience)
    stopped = []
    for step, value in enumerate([3.0, 3.0, 1.0, 1.0, 1.5, 1.5] if patience != 1 else [3.0, 2.0, 1.0, 1.0]):
        best.note(_measured(step, value))
        stopped += [step] if best.is_out_of_patience else []
    assert stopped[:1] == ([] if stops_at is None else [stops_at])


def test_a_measurement_of_something_else_says_nothing():
    best = Best(name="answer_accuracy", is_higher_better=True, patience=1)
    assert not best.note(_measured(1, 0.5, "loss"))
    assert best.num_without_improvement == 0 and best.step is None


def test_a_continued_run_decides_as_if_it_had_never_stopped():
    values = [3.0, 2.1, 0.1 + 0.2, 0.30000000000000004, 0.4, 0.1, 0.2, 0.3]
    whole = Best(patience=3)
    decisions = _note(whole, values)
    for cut in range(len(values) + 1):
        before, after = Best(patience=3), Best(patience=3)
        told = _note(before, values[:cut])
        after.load_state(json.loads(json.dumps(before.state())))
        told += [after.note(_measured(step, values[step])) for step in range(cut, len(values))]
        assert told == decisions and after == whole


def test_a_checkpoint_from_before_early_stopping_is_still_read():
    best = Best()
    best.load_state({"best_step": 3, "best_metric": 1.5})
    assert (best.step, best.value, best.num_without_improvement) == (3, 1.5, 0)


@pytest.mark.parametrize(
    ("train", "name", "is_higher"),
    [
        ("epochs: 1", "loss", False),
        ("best_metric: eval/token_accuracy", "token_accuracy", True),
        ("best_metric: eval/answer_accuracy", "answer_accuracy", True),
        ("best_metric: eval/sums/answer_accuracy", "answer_accuracy", True),
        ("best_metric: eval/sums/perplexity", "sums/perplexity", False),
    ],
)
def test_the_recipe_says_what_is_best_and_the_direction_is_known(train, name, is_higher):
    best = best_of(parse_recipe(RECIPE % f"{train}, patience: 3, min_improvement: 0.01"))
    assert (best.name, best.is_higher_better, best.patience, best.min_improvement) == (name, is_higher, 3, 0.01)
