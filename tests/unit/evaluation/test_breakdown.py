"""Categories are compared each by itself and corrected together; the largest changes come in a fixed order."""

from dataclasses import replace

import pytest

from whet.evaluation.breakdown import compare_by_category, largest_changes
from whet.evaluation.contests import Contest, decide_together
from whet.evaluation.seeds import compare_scores
from whet.evaluation.statistics import holm, paired_result

NAMES = ["sums"] * 12 + ["words"] * 20 + ["sums"] * 3 + ["empty"] * 2
BASE = [0.0] * 12 + [0.25, 0.5] * 10 + [1.0] * 3 + [None, None]
TUNED = [1.0] * 12 + [0.5, 0.25] * 10 + [1.0] * 3 + [1.0, None]


(SHARE,) = decide_together(
    [Contest(name="token_f1", unit="share, 0 to 1", higher_is_better=True, base=[BASE], tuned=[TUNED])], seed=3
)


def test_a_category_is_what_its_rows_alone_would_give():
    words, sums = compare_by_category(NAMES, [BASE], [TUNED], like=SHARE, seed=3)
    assert (words.name, sums.name) == ("words", "sums")
    alone = {
        "words": paired_result(BASE[12:32], TUNED[12:32], seed=3),
        "sums": paired_result(BASE[:12] + BASE[32:35], TUNED[:12] + TUNED[32:35], seed=3),
    }
    for found in (words, sums):
        for field in ("num_rows", "num_left_out", "base_mean", "tuned_mean", "difference", "p_value"):
            assert getattr(found, field) == getattr(alone[found.name], field)
    assert [words.adjusted_p, sums.adjusted_p] == holm([words.p_value, sums.p_value])
    assert (words.verdict, sums.verdict) == ("not distinguishable", "better")


def test_where_less_is_better_a_category_that_rose_is_worse():
    _, sums = compare_by_category(NAMES, [BASE], [TUNED], like=replace(SHARE, higher_is_better=False), seed=3)
    assert sums.verdict == "worse"
    assert (
        compare_by_category(NAMES, [BASE], [TUNED], like=replace(SHARE, higher_is_better=None), seed=3)[1].verdict
        is None
    )


def test_a_category_of_several_seeds_is_compared_over_seeds():
    other = [score if score is None else 1 - score for score in TUNED]
    words, _ = compare_by_category(NAMES, [BASE], [TUNED, other], like=SHARE, seed=3)
    rows = slice(12, 32)
    assert words.difference == compare_scores([BASE[rows]], [TUNED[rows], other[rows]], seed=3).difference


def test_categories_need_one_name_per_row():
    with pytest.raises(ValueError, match="36 categories"):
        compare_by_category(NAMES[:-1], [BASE], [TUNED], like=SHARE, seed=3)


def test_the_largest_changes_come_first_and_ties_keep_the_order_of_the_rows():
    ids = ["a", "b", "c", "d", "e", "f", "g"]
    base = [0.0, 0.5, 1.0, 0.2, 0.9, None, 0.5]
    tuned = [1.0, 0.5, 0.0, 1.2, 0.4, 1.0, 0.0]
    gains, setbacks = largest_changes(ids, base, tuned)
    assert [change.example_id for change in gains] == ["a", "d"]
    assert [change.example_id for change in setbacks] == ["c", "e", "g"]
    assert setbacks[0].difference == -1.0
    assert largest_changes(ids, base, tuned, num_rows=1) == (gains[:1], setbacks[:1])


def test_where_less_is_better_gains_and_setbacks_change_places():
    gains, setbacks = largest_changes(["a", "b"], [2.0, 1.0], [1.0, 3.0], higher_is_better=False)
    assert [change.example_id for change in gains + setbacks] == ["a", "b"]
    swapped = largest_changes(["a", "b"], [2.0, 1.0], [1.0, 3.0])
    assert swapped == (setbacks, gains)
