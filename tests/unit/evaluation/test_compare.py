"""Base against tuned: refused unless like is compared with like, decided by one rule, told with counts."""

from dataclasses import replace

import pytest
from scipy import stats
from tiny_reports import pair, report

from whet.errors import RecipeError
from whet.evaluation.compare import compare


def test_counts_rates_and_p_are_those_of_the_table() -> None:
    comparison = compare(*pair(wins=40, losses=2, both=1, neither=85), seed=1)
    assert (comparison.num_rows, comparison.wins, comparison.losses) == (128, 40, 2)
    assert comparison.base_accuracy.estimate == 3 / 128
    assert comparison.tuned_accuracy.estimate == 41 / 128
    assert comparison.difference.estimate == pytest.approx(38 / 128)
    assert comparison.p_value == pytest.approx(stats.binomtest(2, 42).pvalue)
    assert comparison.verdict == "better"
    assert "tuned answered 41 of 128 right, base 3" in comparison.sentences[0]
    assert "40 rows only tuned got right, 2 rows only base" in comparison.sentences[1]


def test_swapping_the_two_turns_better_into_worse() -> None:
    base, tuned = pair(wins=2, losses=40, both=1, neither=85)
    comparison = compare(base, tuned, seed=1)
    assert comparison.verdict == "worse"
    assert comparison.difference.high < 0


def test_five_wins_and_no_loss_are_not_enough_and_six_are() -> None:
    assert compare(*pair(5, 0, 0, 45), seed=1).verdict == "not distinguishable"
    assert compare(*pair(6, 0, 0, 44), seed=1).verdict == "better"


def test_no_difference_says_what_the_rows_could_have_shown() -> None:
    found = compare(*pair(0, 0, 10, 40), seed=1)
    assert found.verdict == "not distinguishable"
    # nothing changed: a gain on 18 % of 50 rows brings the 6 wins that McNemar needs at least four times in five
    assert 0.8 <= stats.binom.sf(5, 50, found.metrics[0].detectable) <= 0.93
    size = f"{100 * found.metrics[0].detectable:.1f} points"
    assert f"50 rows like these find a difference of {size} or more" in " ".join(found.sentences)
    assert "cannot show any difference" in " ".join(compare(*pair(0, 0, 1, 2), seed=1).sentences)


def test_format_and_stops_are_counted_apart_from_correctness() -> None:
    base = report("base", [True] * 10, num_formatted=2, num_cut=7)
    tuned = report("demo", [True] * 10, num_formatted=9, num_cut=1)
    comparison = compare(base, tuned, seed=1)
    assert comparison.difference.estimate == 0
    assert (comparison.base_format_rate, comparison.tuned_format_rate) == (0.2, 0.9)
    assert comparison.base_stop_rate == pytest.approx(0.3)
    assert comparison.tuned_stop_rate == pytest.approx(0.9)
    text = " ".join(comparison.sentences)
    assert "tuned 9 of 10, base 2 (+70.0 points)" in text
    assert "cut off at the length limit: tuned 1, base 7" in text


def test_a_model_compared_with_itself_is_told_so() -> None:
    base = report("base", [True, False])
    assert "the same weights" in compare(base, replace(base, model="demo"), seed=1).sentences[-1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dataset": "products"}, "dataset differs: base has 'sums', tuned has 'products'"),
        ({"decoding": "greedy max_new_tokens=9"}, "decoding differs"),
        ({"rows_fingerprint": "g"}, "rows_fingerprint differs"),
        ({"judgements": ()}, "tuned judgements are 0"),
        ({"generations": ()}, "tuned generations are 0"),
    ],
)
def test_unlike_reports_are_refused_and_the_field_is_named(changes: dict[str, object], named: str) -> None:
    base, tuned = pair(1, 1, 1, 1)
    with pytest.raises(RecipeError, match=named):
        compare(base, replace(tuned, **changes), seed=1)


def test_the_same_rows_in_another_order_are_refused() -> None:
    base, tuned = pair(2, 0, 0, 2)
    shuffled = replace(tuned, judgements=tuned.judgements[::-1])
    with pytest.raises(RecipeError, match="at row 1: base judged 'row-0', tuned judgements have 'row-3'"):
        compare(base, shuffled, seed=1)


def test_other_accepted_answers_are_refused() -> None:
    base, tuned = pair(2, 0, 0, 0)
    changed = replace(tuned.judgements[0], golds=("2",))
    with pytest.raises(RecipeError, match="golds differ for 'row-0'"):
        compare(base, replace(tuned, judgements=(changed, *tuned.judgements[1:])), seed=1)


def test_reports_without_rows_are_refused() -> None:
    with pytest.raises(RecipeError, match="no rows"):
        compare(*pair(0, 0, 0, 0), seed=1)
