"""What whet knows about single tasks of reasoning-gym: what a problem is made from, worked steps, unsound answers.

A task without an entry works too: its question is what it is made from, and its answer is taught as it is.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from whet.data.datasets import math_answer

Entry = dict[str, Any]
"""One item of reasoning-gym: question, answer, metadata."""


class Rule(NamedTuple):
    """How one task is treated. `parameters` must be decided by the question alone: equal questions, equal value."""

    parameters: Callable[[Entry], object] = lambda entry: entry["question"]
    """What the problem is made from; problems with equal parameters never stand on both sides of the split."""
    work_out: Callable[[Entry], str] = lambda entry: ""
    """Worked steps taught before the answer."""
    is_sound: Callable[[Entry], bool] = lambda entry: True
    """False for items whose given answer is wrong; they are left out."""


def _sum_step_by_step(entry: Entry) -> str:
    """`4 - 1 - 7` -> `4 - 1 = 3`, `3 - 7 = -4`."""
    first, *rest = entry["metadata"]["expression"].split()
    total, lines = int(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        new_total = total + int(term) if sign == "+" else total - int(term)
        lines.append(f"{total} {sign} {term} = {new_total}")
        total = new_total
    return "\n".join(lines)


def _count_legs_by_animal(entry: Entry) -> str:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    total, lines = 0, []
    for animal, num_animals in entry["metadata"]["animals"].items():
        num_legs = num_animals * ANIMALS[animal]
        lines.append(f"{animal}: {num_animals} * {ANIMALS[animal]} = {num_legs}, total {total} + {num_legs} = "
                     f"{total + num_legs}")  # fmt: skip
        total += num_legs
    return "\n".join(lines)


def _mask_names(entry: Entry) -> str:
    """A word problem without its names and things: the template with its numbers."""
    question = entry["question"]
    words: set[str] = set()
    for value in entry["metadata"]["variables"].values():
        values = value if isinstance(value, list | tuple) else [value]
        words |= {word for word in values if isinstance(word, str) and word}
    for word in sorted(words, key=lambda word: (-len(word), word)):
        question = re.sub(rf"\b{re.escape(word)}(?=s?\b)", "_", question)
    return question


def _agrees_with_its_steps(entry: Entry) -> bool:
    steps, _ = math_answer.extract(entry["metadata"]["answer_cot"])
    return math_answer.is_correct(steps, (entry["answer"],))


def _without_final_line(entry: Entry) -> str:
    return entry["metadata"]["answer_cot"].partition("####")[0].strip()


_OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


def _exact_value(node: ast.AST) -> Fraction | None:
    """Value of a parsed sum or product; None where it divides by zero."""
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp):
        operand = _exact_value(node.operand)
        return None if operand is None else -operand
    assert isinstance(node, ast.BinOp)
    left, right = _exact_value(node.left), _exact_value(node.right)
    if left is None or right is None or (isinstance(node.op, ast.Div) and right == 0):
        return None
    return _OPERATORS[type(node.op)](left, right)


def _divides_evenly(entry: Entry) -> bool:
    """The generator rounds quotients down silently: 36 of 5,000 answers are not the expression's value."""
    expression = ast.parse(entry["metadata"]["expression"].replace(" ", ""), mode="eval")
    return _exact_value(expression.body) == Fraction(entry["answer"])


# `What is Sarah to Elizabeth?` is answered `mother-in-law` where Elizabeth is Sarah's: the generator names the second
# person's relation for these four words (reasoning-gym 0.1.25, 13 % of the items).
_REVERSED_RELATIONS = frozenset({"mother-in-law", "father-in-law", "niece", "nephew"})

RULES = {
    "word_sequence_reversal": Rule(parameters=lambda entry: entry["metadata"]["words"]),
    "family_relationships": Rule(
        parameters=lambda entry: [
            entry["question"].rpartition("\n\n")[0], entry["metadata"]["person1"], entry["metadata"]["person2"]
        ],
        is_sound=lambda entry: entry["answer"] not in _REVERSED_RELATIONS,
    ),
    "leg_counting": Rule(
        parameters=lambda entry: sorted(entry["metadata"]["animals"].items()), work_out=_count_legs_by_animal
    ),
    "chain_sum": Rule(parameters=lambda entry: entry["metadata"]["expression"].split(), work_out=_sum_step_by_step),
    "gsm_symbolic": Rule(parameters=_mask_names, work_out=_without_final_line, is_sound=_agrees_with_its_steps),
    "basic_arithmetic": Rule(
        parameters=lambda entry: entry["metadata"]["expression"].replace(" ", ""), is_sound=_divides_evenly
    ),
}  # fmt: skip
