"""Categories are compared each by itself and corrected together; wins and losses are the largest, in a fixed order."""

import pytest

from whet.evaluation.breakdown import compare_by_category, largest_changes
from whet.evaluation.statistics import holm, paired_result

NAMES = ["sums"] * 12 + ["words"] * 20 + ["sums"] * 3 + ["empty"] * 2
BASE = [0.0] * 12 + [0.25, 0.5] * 10 + [1.0] * 3 + [None, None]
TUNED = [1.0] * 12 + [0.5, 0.25] * 10 + [1.0] * 3 + [1.0, None]


def test_a_category_is_what_its_rows_alone_would_give():
    words, sums = compare_by_category(NAMES, BASE, TUNED, seed=3)
    assert (words.name, sums.name) == ("words", "sums")
    assert words.result == paired_result(BASE[12:32], TUNED[12:32], seed=3)
    assert sums.result == paired_result(BASE[:12] + BASE[32:35], TUNED[:12] + TUNED[32:35], seed=3)
    assert [words.adjusted_p, sums.adjusted_p] == holm([words.result.p_value, sums.result.p_value])


def test_categories_need_one_name_per_row():
    with pytest.raises(ValueError, match="zip"):
        compare_by_category(NAMES[:-1], BASE, TUNED, seed=3)


def test_the_largest_changes_come_first_and_ties_keep_the_order_of_the_rows():
    ids = ["a", "b", "c", "d", "e", "f", "g"]
    base = [0.0, 0.5, 1.0, 0.2, 0.9, None, 0.5]
    tuned = [1.0, 0.5, 0.0, 1.2, 0.4, 1.0, 0.0]
    wins, losses = largest_changes(ids, base, tuned)
    assert [change.example_id for change in wins] == ["a", "d"]
    assert [change.example_id for change in losses] == ["c", "e", "g"]
    assert losses[0].difference == -1.0
    assert largest_changes(ids, base, tuned, num_rows=1) == (wins[:1], losses[:1])


def test_where_less_is_better_wins_and_losses_change_places():
    wins, losses = largest_changes(["a", "b"], [2.0, 1.0], [1.0, 3.0], higher_is_better=False)
    assert [change.example_id for change in wins + losses] == ["a", "b"]
    swapped = largest_changes(["a", "b"], [2.0, 1.0], [1.0, 3.0])
    assert swapped == (losses, wins)
