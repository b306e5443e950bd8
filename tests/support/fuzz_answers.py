"""Targets of the fuzzer: answers of models, which may be any text."""

from __future__ import annotations

from pathlib import Path

from fuzz_targets import Parser

from whet.data.datasets import answer_line, generated, math_answer, number_text, plain_answer, symbolic_answer
from whet.evaluation.metrics import exact_match, token_f1

_GOLDS = ("72", "1/3", "Paris", "")


def answers(scratch: Path) -> Parser:
    def parse(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        for task in (plain_answer, math_answer, symbolic_answer, generated):
            extracted, has_format = task.extract(text)
            assert isinstance(extracted, str) and isinstance(has_format, bool)
        plain_answer.is_correct(extracted, _GOLDS)
        number = math_answer.last_number(text)
        for found in (number, math_answer.extract(text)[0], math_answer.bare_number(text)):
            math_answer.is_correct(found, _GOLDS)
            assert not found or number_text.to_value(found) is not None, f"{found!r} was found as a number and is none"
        math_answer.is_correct(text, _GOLDS)
        math_answer.has_final_line(text)
        number_text.to_value(text)
        answer_line.find_answer(text)
        answer_line.find_last_line(text)
        symbolic_answer.golds_of(text)
        symbolic_answer.may_be_formula(text)
        exact_match.score(text[:2000], _GOLDS)
        token_f1.score(text[:2000], _GOLDS)

    return parse


def formula(scratch: Path) -> Parser:
    def parse(data: bytes) -> None:
        gold, _, answer = data.decode("utf-8", "replace").partition("\n")
        symbolic_answer.is_correct(answer, (gold,))

    return parse
