r"""Formulas are equal when math-verify says so, within limits that no text can get around.

Pairs are those of the MATH data set's forms; what is right stands beside each.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from whet.data.datasets import TASKS, judge, require_judge, symbolic_answer, with_judge
from whet.types import Example, Message

IS_SAME = [
    (r"\frac{1}{2}", "0.5", True),
    (r"\frac12", r"\dfrac{1}{2}", True),
    (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2", True),
    (r"11\sqrt2", r"11\sqrt{2}", True),
    ("x^2+1", "1+x^2", True),
    ("2x", "2y", False),
    ("[1,2)", "[1, 2)", True),
    ("[1,2)", "(1,2)", False),
    (r"[0,\infty)", r"\left[0, \infty\right)", True),
    (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty,2)\cup(3,\infty)", True),
    (r"\{1,2\}", r"\{2,1\}", True),
    ("(3, 4)", "(4, 3)", False),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", True),
    ("x=5", "5", True),
    (r"60^\circ", "60", True),
    (r"5 \text{ cm}", "5", True),
    ("1,234", "1234", True),
    (r"\text{Evelyn}", r"\text{Evelyn}", True),
    (r"\pi", "3.14", False),
    ("", "5", False),
]


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "gold", "is_same"), IS_SAME)
def test_formulas_are_compared_by_their_value(answer, gold, is_same):
    assert symbolic_answer.is_correct(answer, ("no", gold)) == is_same


@pytest.mark.parametrize(
    ("text", "answer", "has_format"),
    [
        ("So it is\n#### 72", "72", True),
        (r"Hence \boxed{\frac{3}{4}}.", r"\frac{3}{4}", True),
        (r"The answer is: $\frac{\sqrt{3}}{2}$.", r"\frac{\sqrt{3}}{2}", True),
        ("Answer: (1, 2]", "(1, 2]", True),
        ("That makes 24 clips.", "24", False),
        ("I do not know", "", False),
        (r"\boxed{3}" + "\n\nQuestion: What else?\n" + r"\boxed{4}", "3", True),
    ],
)
def test_the_answer_is_what_the_text_marks(text, answer, has_format):
    assert symbolic_answer.extract(text) == (answer, has_format)


@pytest.mark.parametrize(
    ("answer", "golds"),
    [
        ("Step by step.\nThe answer is: \\frac{3}{4}", ("\\frac{3}{4}",)),
        ("48/2 = <<48/2=24>>24\n#### 24", ("24",)),
        ("[0, 1)", ("[0, 1)",)),
        ("One thing.\nAnother thing.", ()),
        ("x" * 400, ()),
    ],
)
def test_the_gold_is_what_the_worked_answer_marks(answer, golds):
    assert symbolic_answer.golds_of(answer) == golds


HOSTILE = [
    "__import__('os').system('touch RAN')",
    "9**9**9**9",
    "9^{9^{9^{9}}}",
    "9^9^9^9",
    "9^{99999999}",
    "10^{-99999999}",
    "1e999999999",
    "9" * 1_000_000,
    "(" * 100_000,
    "x^{2}" * 1_000_000,
    r"\input{/etc/passwd}",
    r"\write18{touch RAN}",
    "99999999!",
    r"\binom{99999999}{4999999}",
    r"\sum_{i=1}^{999999999} i",
    r"\prod_{i=1}^{999999999} i",
    "lambda: 1",
    "exec('1')",
    "\\frac" * 60,
    "{" * 299,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:24])
def test_a_hostile_text_is_answered_in_a_second_and_nothing_of_it_is_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    symbolic_answer.is_correct("x+1", ("1+x",))  # the child has started
    started = time.monotonic()
    for answer, gold in ((text, r"\frac{1}{2}+x"), (r"\frac{1}{2}+x", text)):
        assert not symbolic_answer.is_correct(answer, (gold,))
    assert symbolic_answer.extract(f"The answer is: {text}")[0] is not None
    assert time.monotonic() - started < 1
    assert list(Path(tmp_path).iterdir()) == []


def test_what_takes_too_long_is_not_right_and_the_next_answer_is_judged(monkeypatch):
    """The guards let a formula through that sympy works on for long: the child is ended."""
    monkeypatch.setattr(symbolic_answer, "MAX_SECONDS", 0.001)
    assert not symbolic_answer.is_correct(r"\frac{x^2-1}{x-1}", ("x+1",))
    monkeypatch.undo()
    assert symbolic_answer.is_correct(r"\frac{2}{4}+x", (r"x+\frac{1}{2}",))


def test_a_row_judged_by_math_verify_keeps_its_id_and_own_judges_stay():
    turns = (Message(role="user", content="?"), Message(role="assistant", content="The answer is: \\frac{3}{4}"))
    row = Example(id="a-0", messages=turns, task="math_answer", golds=())
    assert with_judge(row, "own") is row
    judged = judge(with_judge(row, "math_verify"), "I get \\boxed{0.75}")
    assert (judged.example_id, judged.extracted, judged.golds) == ("a-0", "0.75", ("\\frac{3}{4}",))
    assert judged.is_correct and judged.has_format
    assert not judge(row, "I get \\boxed{0.75}").is_correct
    require_judge("own")
    assert TASKS["symbolic_answer"] is symbolic_answer
