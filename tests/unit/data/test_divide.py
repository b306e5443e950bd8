"""Rows are drawn into three parts, and no question is in two of them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from whet.data.divide import divide
from whet.errors import DataError


def parts(questions, seed=42):
    found = divide(questions, seed=seed, where="rows.csv")
    return [found.train, found.validation, found.held_out]


@pytest.mark.parametrize(("num_rows", "sizes"), [(30, [15, 5, 10]), (200, [130, 20, 50]), (10_000, [9_500, 100, 400])])
def test_sizes_follow_from_the_number_of_rows(num_rows, sizes):
    found = parts(range(1, num_rows + 1))
    assert [len(part) for part in found] == sizes
    assert sorted(position for part in found for position in part) == list(range(num_rows))


def test_rows_that_ask_the_same_stay_together():
    questions = [n // 7 for n in range(300)]
    where = {position: name for name, part in enumerate(parts(questions)) for position in part}
    assert all(where[a] == where[b] for a, b in pairwise(range(300)) if questions[a] == questions[b])
    assert len(where) == 300


def test_a_question_that_most_rows_ask_is_trained_on():
    questions = [0] * 500 + list(range(1, 60))
    train, validation, held_out = parts(questions)
    assert set(range(500)) <= set(train)
    assert validation and held_out


def test_held_out_rows_are_drawn_from_the_whole_file_not_from_its_end():
    _, _, held_out = parts(range(1, 1001))
    quarters = [sum(low <= position < low + 250 for position in held_out) for low in range(0, 1000, 250)]
    # 250 rows in four quarters: below 40 or above 85 in one of them is less likely than 1 in 1,000
    assert all(40 < count < 85 for count in quarters)


def test_the_part_of_a_question_does_not_depend_on_its_place_in_the_file():
    questions = list(range(1, 201))
    first = {questions[position] for position in parts(questions)[2]}
    turned = questions[::-1]
    assert {turned[position] for position in parts(turned)[2]} == first
    assert {questions[position] for position in parts(questions, seed=7)[2]} != first


def test_too_few_questions_are_refused_however_many_rows_there_are():
    with pytest.raises(DataError, match="290 usable ones, different questions among them: 29"):
        parts([n % 29 for n in range(290)])
