"""How answers look decides how they are judged."""

from __future__ import annotations

import pytest

from whet.data.answer_kinds import look_at_answers
from whet.data.formats.question_answer import read
from whet.data.rows import build_example

SENTENCE = "You can return it within thirty days if you kept the receipt and the box."


def kind(*answers: str):
    rows = [build_example(read({"question": f"{n}?", "answer": text}), origin="r") for n, text in enumerate(answers)]
    return look_at_answers(rows)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["12", "-3.5", "1,234", "$7"] * 10, "number"),
        ([f"2 + {n} is {n + 2}.\n#### {n + 2}" for n in range(40)], "number"),
        (["positive", "negative", "neutral"] * 10, "choice"),
        ([f"Mr {n}" for n in range(40)], "short"),
        ([f"{SENTENCE} {n}" for n in range(40)], "long"),
        ([f"$\\frac{{{n}}}{{7}}$" for n in range(40)], "formula"),
        (["yes"] * 30 + [SENTENCE] * 10, "long"),
    ],
)
def test_the_narrowest_kind_that_nearly_all_answers_have(answers, expected):
    assert kind(*answers).kind == expected


def test_choices_come_with_the_most_frequent_first():
    assert kind(*["no"] * 20, *["yes"] * 30).choices == ("yes", "no")


def test_a_few_odd_answers_do_not_change_the_kind():
    assert kind(*[str(n) for n in range(39)], "none").kind == "number"


def test_a_number_alone_is_told_from_one_at_the_end_of_a_solution():
    assert not kind(*map(str, range(20))).has_solutions
    assert kind(*[f"So\n#### {n}" for n in range(20)]).has_solutions
