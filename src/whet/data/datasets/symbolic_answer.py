r"""Answers that are formulas, as in MATH (`\boxed{\frac{\sqrt{3}}{2}}`, `[0, \infty)`), compared by math-verify.

Chosen with `evaluate[].judge: math_verify`. What a text marks as its answer is found as for numbers (math_answer.py).
Equal texts and equal numbers are equal without the library. Everything else goes to math-verify, which hands LaTeX to
sympy, in a child process with limits (symbolic_child.py), and only if it can be a formula of a person: at most 300
characters, known signs and commands, brackets that close and are at most eight deep, no number of more than 30 digits,
no power above three digits or of a power, no factorial. What is refused, takes more than five seconds or ends the child
is not right.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

from whet.data.datasets import answer_line, math_answer
from whet.data.limited_child import LimitedChild
from whet.errors import RecipeError

MAX_CHARACTERS = 300
MAX_SECONDS = 5.0
_CHILD = Path(__file__).with_name("symbolic_child.py")
_COMMANDS = re.compile(
    "(?:[dtc]?frac|sqrt|pi|infty|cup|cap|emptyset|varnothing|setminus|in|left|right|[bB]igl?|[bB]igr?|text(?:bf)?|"
    "math(?:rm|bf|bb)|mbox|cdot|times|div|pm|mp|leq?|geq?|lt|gt|neq?|approx|sin|cos|tan|cot|sec|csc|arc(?:sin|cos|tan)|"
    "log|ln|exp|theta|alpha|beta|gamma|lambda|omega|phi|circ|degree|percent|q?quad|begin|end|[pb]?matrix|cases|overline|"
    "displaystyle)"
)
_SIGNS = re.compile(
    r"[A-Za-z0-9\s\\{}()\[\]^_+\-*/=<>.,:;|&%$~'\u2212\u00b0\u221e\u03c0\u221a\u222a\u2229\u2264\u2265]*"
)
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_TOO_MUCH = re.compile(r"\d{31}|\*\*|__|\^\s*\{?\s*[+-]?\s*[\d.,]{4}|e[+-]?\d{4}|\^[^\s^]{0,60}\^", re.IGNORECASE)
_MAX_DEPTH = 8
_LINE_END = " \t\r\n.,;:$"


def extract(text: str) -> tuple[str, bool]:
    """What the text marks as its answer, and whether a mark introduced it; without one the last number."""
    own = math_answer.own_answer(text)
    marked = math_answer.find_marked(own)
    return (math_answer.last_number(own), False) if marked is None else (_trim(marked), bool(_trim(marked)))


def golds_of(answer: str) -> tuple[str, ...]:
    """The gold of a worked answer: what it marks, else all of it if that is one short line, else none."""
    marked = math_answer.find_marked(answer)
    gold = _trim(answer if marked is None else marked)
    return (gold,) if gold and "\n" not in gold and len(gold) <= MAX_CHARACTERS else ()


def is_correct(extracted: str, golds: tuple[str, ...], *, origin: str = "") -> bool:
    """Whether the formula has the value of one of the golds."""
    return any(_is_same(extracted, gold) for gold in golds)


def require() -> None:
    """RecipeError where math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise RecipeError(
            "evaluate[].judge math_verify needs math-verify, which is not installed", mend="pip install 'whet[math]'"
        )


def may_be_formula(text: str) -> bool:
    """Whether a text is harmless enough to be handed to the library; linear in its length."""
    return (
        0 < len(text) <= MAX_CHARACTERS
        and _SIGNS.fullmatch(text) is not None
        and all(_COMMANDS.fullmatch(command) for command in _COMMAND.findall(text))
        and _TOO_MUCH.search(text) is None
        and text.count("^") <= 8
        and _is_nested_well(text)
    )


def _is_nested_well(text: str) -> bool:
    """Whether every bracket is closed, none is too deep; `[` may be closed by `)`, as in intervals."""
    depth = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if not 0 <= depth <= _MAX_DEPTH:
            return False
    return depth == 0


def _trim(text: str) -> str:
    return answer_line.strip_decoration(text[: answer_line.MAX_CHARACTERS]).strip(_LINE_END)


def _is_same(extracted: str, gold: str) -> bool:
    if not extracted:
        return False
    if "".join(extracted.split()) == "".join(gold.split()):
        return True
    numbers = math_answer.bare_number(extracted), math_answer.bare_number(gold)
    if all(numbers):
        return math_answer.is_correct(numbers[0], (numbers[1],))
    return may_be_formula(extracted) and may_be_formula(gold) and _verify(gold, extracted)


def _verify(gold: str, answer: str) -> bool:
    require()
    request = json.dumps([gold, answer]).encode("ascii") + b"\n"
    return _CHILD_PROCESS.ask(request, 1, MAX_SECONDS, 100) == [b"true"]


def _command() -> list[str]:
    return [sys.executable, "-I", "-B", str(_CHILD)]


_CHILD_PROCESS = LimitedChild(_command, "compares formulas")
