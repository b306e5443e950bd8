"""YAML is read by the type of its field, and everything that could run code or explode is refused."""

from __future__ import annotations

import math

import pytest
import yaml

from whet.errors import RecipeError
from whet.recipe.yaml_tree import MAX_BYTES, MAX_DEPTH, MapNode, Scalar, natural_value, parse_tree, scalar_value

NUMBER = frozenset({float})
WHOLE = frozenset({int})
TEXT = frozenset({str})


def parse(text: str):
    return parse_tree(text, lambda line: f"f.yaml:{line}")


def value(text: str, accepted: frozenset[type], *, is_quoted: bool = False):
    return scalar_value(Scalar(text, is_quoted, "f.yaml:1"), accepted)


@pytest.mark.parametrize("text", ["1e-4", "2e-4", "1E5", "1e5", "5.", ".5", "-2.5e+3", "1.0e-08", "7", "-0"])
def test_numbers_are_what_python_says_they_are(text):
    assert natural_value(text) == float(text)


def test_yaml_1_1_would_have_read_scientific_notation_as_text():
    assert yaml.safe_load("1e-4") == "1e-4"
    assert natural_value("1e-4") == 1e-4


@pytest.mark.parametrize("text", ["12:30:45", "010", "0x10", "1_000", "1e", "e5", ".", "-", "no", "off", "2024-01-01"])
def test_what_yaml_1_1_mistakes_for_numbers_dates_or_booleans_stays_text(text):
    assert natural_value(text) == text


def test_infinities_and_nan_are_read_so_that_the_schema_can_refuse_them():
    assert natural_value("-.inf") == -math.inf
    assert math.isnan(natural_value(".nan"))


@pytest.mark.parametrize("text", ["no", "1e10", "12345678", "true", "12:30:45", "0.10"])
def test_a_text_field_keeps_the_text(text):
    assert value(text, TEXT) == text


def test_word_booleans_hold_in_boolean_fields_only():
    assert [value(word, frozenset({bool})) for word in ("yes", "off", "On", "true")] == [True, False, True, True]
    assert value("yes", frozenset({bool, int, float, str})) == "yes"


def test_a_whole_float_is_a_whole_number_where_only_those_are_taken():
    assert value("1e3", WHOLE) == 1000 and type(value("1e3", WHOLE)) is int
    assert value("1.5", WHOLE) == 1.5
    assert type(value("1e3", NUMBER)) is float


def test_a_quoted_number_is_text():
    assert value("2e-4", NUMBER, is_quoted=True) == "2e-4"


def test_lines_are_counted_from_one_and_point_at_the_key():
    root, _ = parse("a: 1\nb:\n  c:\n    - 2\n    - 3\n")
    assert isinstance(root, MapNode)
    section = root.entries["b"]
    assert root.entries["a"].place == "f.yaml:1"
    assert section.place == "f.yaml:2"
    assert section.entries["c"].place == "f.yaml:3"
    assert section.entries["c"].items[1].place == "f.yaml:5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: !!python/object/apply:os.system [echo]\n", "f.yaml:1 a: YAML tags are refused"),
        ("a: !!str 1\n", "f.yaml:1 a: YAML tags are refused"),
        ("a: &x 1\n", "f.yaml:1 a: anchors are refused: remove &x"),
        ("a: &x 1\nb: *x\n", "f.yaml:2 b: aliases are refused: write the value of *x out"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3 a: is given twice (first at f.yaml:1)"),
        ("[1, 2]: 3\n", "a key must be a single word"),
        ("a: 1\n<<: {b: 2}\n", ""),
    ],
)
def test_what_is_refused_is_named_with_its_line(text, expected):
    _, problems = parse(text)
    assert expected in "\n".join(map(str, problems))


def test_all_problems_of_a_text_are_collected():
    _, problems = parse("a: &x 1\nb: *x\nc: !!int 3\nc: 4\n")
    assert len(problems) == 4


def test_a_billion_laughs_text_is_refused_without_being_expanded():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    _, problems = parse("\n".join(lines))
    assert len(problems) == 10 + 9 * 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" * 100_000, f"nested deeper than {MAX_DEPTH}"),
        ("{a: " * 30 + "1" + "}" * 30, f"nested deeper than {MAX_DEPTH}"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: a second document"),
        ("a: [1, 2\nb: 3\n", "is not YAML"),
        ("a:\n\tb: 1\n", "indent with spaces"),
        ("a: b: c\n", "f.yaml:1: is not YAML"),
        ("a: \x00\n", "is not YAML"),
        ("a: 'x\n", "is not YAML"),
        ("x" * (MAX_BYTES + 1), "is larger than"),
        ("- a\n" * 100_000, "f.yaml:5000: has more than 5,000 values"),
    ],
)
def test_what_is_no_usable_yaml_is_an_error_with_its_line(text, expected):
    with pytest.raises(RecipeError, match=r"f\.yaml:") as caught:
        parse(text)
    assert expected in str(caught.value)


def test_depth_twenty_is_still_read():
    root, problems = parse("{a: " * MAX_DEPTH + "1" + "}" * MAX_DEPTH)
    assert isinstance(root, MapNode) and not problems
