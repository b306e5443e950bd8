import ast
import re

import pytest

from whet.data.datasets import generated
from whet.data.datasets.generated_rules import RULES

pytest.importorskip("reasoning_gym", reason="needs whet[demo]")


def _entries(task, count, **options):
    entries = generated._generate_entries(task, 7, options)
    return [next(entries)[0] for _ in range(count)]


def test_worked_sums_are_true_and_end_at_the_answer():
    for entry in _entries("chain_sum", 200, allow_negation=True):
        lines = RULES["chain_sum"].work_out(entry).splitlines()
        for line in lines:
            left, _, right = line.partition(" = ")
            assert sum(map(int, re.sub(r"(?<=\d) ([+-]) (-?)", _join_signs, left).split())) == int(right)
        assert not lines or lines[-1].endswith(f" = {entry['answer']}")
        assert len(lines) == entry["metadata"]["num_terms"] - 1


def _join_signs(match):
    return " -" if (match[1] == "-") != (match[2] == "-") else " "


def test_worked_leg_counts_end_at_the_answer():
    for entry in _entries("leg_counting", 100):
        assert RULES["leg_counting"].work_out(entry).endswith(f" = {entry['answer']}")


def test_word_problems_keep_their_steps_without_the_final_mark():
    for entry in _entries("gsm_symbolic", 200):
        worked = RULES["gsm_symbolic"].work_out(entry)
        assert worked and "####" not in worked


def test_word_problems_that_differ_in_names_only_have_equal_parameters():
    entry = _entries("gsm_symbolic", 1)[0]
    name = next(value for value in entry["metadata"]["variables"].values() if isinstance(value, str))
    variables = {k: "Zoe" if v == name else v for k, v in entry["metadata"]["variables"].items()}
    other = {"question": entry["question"].replace(name, "Zoe"), "metadata": {"variables": variables}}
    assert other["question"] != entry["question"]
    assert RULES["gsm_symbolic"].parameters(other) == RULES["gsm_symbolic"].parameters(entry)


def test_animals_in_another_order_are_the_same_problem():
    rule = RULES["leg_counting"].parameters
    assert rule({"metadata": {"animals": {"cat": 2, "bee": 1}}}) == rule(
        {"metadata": {"animals": {"bee": 1, "cat": 2}}}
    )
    assert rule({"metadata": {"animals": {"cat": 2}}}) != rule({"metadata": {"animals": {"cat": 3}}})


def test_arithmetic_answers_that_are_not_the_expressions_value_are_left_out():
    unsound = [entry for entry in _entries("basic_arithmetic", 1500) if not RULES["basic_arithmetic"].is_sound(entry)]
    assert unsound
    for entry in unsound:
        assert abs(_float_value(entry) - int(entry["answer"])) > 1e-9 * max(1, abs(int(entry["answer"])))
    assert RULES["basic_arithmetic"].is_sound({"metadata": {"expression": "6 / ( 1 + 2 )"}, "answer": "2"})
    assert not RULES["basic_arithmetic"].is_sound({"metadata": {"expression": "7 / 2"}, "answer": "3"})
    assert not RULES["basic_arithmetic"].is_sound({"metadata": {"expression": "7 / ( 1 - 1 )"}, "answer": "3"})


def _float_value(entry):
    code = compile(ast.parse(entry["metadata"]["expression"].replace(" ", ""), mode="eval"), "expression", "eval")
    return eval(code, {"__builtins__": {}})


def test_family_answers_that_name_the_wrong_persons_relation_are_left_out():
    entries = _entries("family_relationships", 400)
    reversed_entries = [entry for entry in entries if not RULES["family_relationships"].is_sound(entry)]
    assert {entry["answer"] for entry in reversed_entries} == {"mother-in-law", "father-in-law"}
    for entry in reversed_entries:
        asked, other = entry["metadata"]["person1"], entry["metadata"]["person2"]
        children = _children_of(other, entry["question"])
        # the person asked about married a child of the other one, so the right word is daughter- or son-in-law
        assert any(
            f"{a} is married to {b}." in entry["question"] for c in children for a, b in ((asked, c), (c, asked))
        )


def _children_of(parent, story):
    names = re.findall(rf"(?:{parent} is married to \w+|\w+ is married to {parent})\. They have (?:a child|children) "
                       r"called ([^.]+)\.", story)  # fmt: skip
    return re.split(r", | and ", names[0]) if names else []
