"""The reasons of the extraction study hold for what they say and for nothing else (lm-eval's regexes written here)."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from whet.data.datasets import math_answer

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


@pytest.fixture(scope="module")
def study():
    """The script as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("extraction_agreement", BENCHMARKS / "extraction_agreement.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))
        del sys.modules[spec.name]


def theirs(pattern: re.Pattern, index: int, text: str) -> str:
    found = pattern.findall(text)
    if not found:
        return "[invalid]"
    return (found[index] if isinstance(found[index], str) else next(group for group in found[index] if group)).strip()


def reason(study, name: str, text: str, gold: str = "24", number: str | None = None) -> str | None:
    """Beginning of the reason that the study gives; "" for none, None where the two agree."""
    pattern, index, rules = (
        (STRICT, 0, study.STRICT_RULES) if name == "strict" else (FLEXIBLE, -1, study.FLEXIBLE_RULES)
    )
    ours, is_marked = math_answer.extract(text)
    case = study.Case(
        text=text, ours=ours, is_marked=is_marked, theirs=number or theirs(pattern, index, text),
        is_right_ours=math_answer.is_correct(ours, (gold,)), is_right_theirs=False,
    )  # fmt: skip
    case = study.Case(**{**{f: getattr(case, f) for f in case.__slots__}, "is_right_theirs": case.their_number == gold})
    if case.is_same_number and case.is_right_ours == case.is_right_theirs:
        return None
    return next((said for said, holds in rules if holds(case)), "")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("strict", "#### 24", None),
        ("strict", "It is 24", "there is no `#### NUMBER`, all that strict reads; ours is the last"),
        ("strict", "Answer: 24", "there is no `#### NUMBER`, all that strict reads; ours is behind"),
        ("strict", "#### 24.00", "the same number in other writing"),
        ("strict", "#### 2 + 22 = 24", "strict takes the first number"),
        ("flexible", "It is 24", None),
        ("flexible", "It is 24 ...", "flexible takes stops"),
        ("flexible", "It is 24.00", "the same number in other writing"),
        ("flexible", "It is 1/24", "a fraction"),
        ("flexible", "#### 24\n\nQuestion: 7?", "flexible reads on in a question"),
        ("flexible", "I had 24.\n#### none", "the mark says"),
        ("flexible", "#### 24\nTom has 7", "flexible takes the last number"),
        ("flexible", "24 of $350,00", "no number with thousands commas"),
        ("flexible", "9-24", "a hyphen"),
        ("flexible", "24, or 2^3", "a power"),
        ("flexible", "24 million", "a power, a time, a scale"),
    ],
)
def test_each_difference_has_the_reason_that_it_has(study, name, text, said):
    found = reason(study, name, text)
    assert found is None if said is None else (found or "").startswith(said), found


@pytest.mark.parametrize("name", ["strict", "flexible"])
@pytest.mark.parametrize("text", ["It is 24", "#### 24", "Answer: 24", "1/24", "24 of 30"])
def test_a_number_that_a_filter_would_never_take_is_explained_by_nothing(study, name, text):
    assert reason(study, name, text, number="777") == ""


def test_the_stored_study_is_of_500_generations_and_has_nothing_unexplained():
    stored = json.loads((BENCHMARKS / "results" / "extraction_agreement.json").read_text(encoding="utf-8"))
    assert (stored["rows"], stored["unexplained"]) == (500, 0)
    for each in stored["filters"].values():
        assert len(each["differing_rows"]) == sum(each["reasons"].values())
        assert len(each["differing_rows"]) + each["counts"]["same number and verdict"] == 500
