import json
import os
import re
import time
from pathlib import Path

import pytest

from whet.data.datasets.math_answer import bare_number, extract, has_final_line, is_correct


@pytest.mark.parametrize(
    ("text", "number", "has_format"),
    [
        ("48/2 = 24\n#### 24", "24", True),
        ("#### 1,234,567", "1234567", True),
        ("#### $1,234.50", "1234.5", True),
        ("#### -7", "-7", True),
        ("#### -$7", "-7", True),
        ("#### $-7", "-7", True),
        ("#### \u22127", "-7", True),
        ("#### 50%", "50", True),
        ("#### 24\n\nQuestion: ...\n#### 99", "24", True),
        ("Answer: 24 apples", "24", True),
        ("Answer: 24\nAnswer: 99", "24", True),
        ("Answer: 2 + 2 = 4", "4", True),
        ("48/2 = 24\nThe answer is: 24", "24", True),
        ("**The answer is:** 24", "24", True),
        ("the answer is :\n$1,024", "1024", True),
        ("The answer is: 24\n\nQuestion: ...\nThe answer is: 99", "24", True),
        ("The answer is: 24\n\nQuestion: ...\nAnswer: 99", "24", True),
        ("The answer is: 24\n\nQuestion: ...\n#### 99", "24", True),
        ("#### 24\nThe answer is: 25", "24", True),
        ("Answer: 24\nThe answer is: 25", "24", True),
        ("I had 5. The answer is: none", "", False),
        ("The answer is 24, not 25", "25", False),
        ("It is 3, then 4.", "4", False),
        ("He pays 007 dollars.", "7", False),
        ("10-3", "3", False),
        ("10 - 3 = 7", "7", False),
        ("It is -3", "-3", False),
        ("(-3)", "-3", False),
        ("x=.5", "0.5", False),
        ("0.50", "0.5", False),
        ("-0", "0", False),
        ("1,23", "23", False),
        ("half: 1/2", "1/2", False),
        ("no number", "", False),
        ("I had 5.\nAnswer: none", "", False),
        ("", "", False),
    ],
)
def test_the_number_is_found(text, number, has_format):
    assert extract(text) == (number, has_format)


@pytest.mark.parametrize(
    ("one", "other"), [("1,234", "1234"), ("5.50", "5.5"), ("1/2", "0.5"), ("4/2", "2"), ("07", "7")]
)
def test_equal_numbers_are_equal(one, other):
    assert is_correct(extract(one)[0], (extract(other)[0],))


@pytest.mark.parametrize(
    ("one", "other"), [("17.6", "18"), ("5.50", "6"), ("1/2", "0"), ("-4", "4"), ("1/0", "0"), ("", "0"), ("", "")]
)
def test_different_numbers_are_not_equal(one, other):
    assert not is_correct(extract(one)[0], (other,))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch canary')",
        "9**9**9**9",
        "9" * 1_000_000,
        "#### " + "9" * 1_000_000,
        "1," * 500_000,
        "1/" * 500_000,
        "#" * 1_000_000,
        "-" * 1_000_000,
        "$" * 1_000_000,
        "the answer is:" * 100_000,
        "the answer is" + " " * 1_000_000,
        "\\frac{" * 2_000 + "1" + "}" * 2_000,
        "1e999999999",
        "\u0661\u0662\u0663",
    ],
    ids=lambda text: text[:12],
)
def test_hostile_text_gets_a_verdict_at_once_and_runs_nothing(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    number, _ = extract(text)
    assert not is_correct(number, ("42",))
    assert time.perf_counter() - start < 1.0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "number"),
    [(" 24 ", "24"), ("24.", "24"), ("$1,200.50", "1200.5"), ("-$7", "-7"), ("\u22127", "-7"), ("1/2", "1/2"),
     ("50%", "50"), ("\\$5", "5"), (".5", "0.5"), ("24 apples", ""), ("\\frac{1}{2}", ""), ("x=5", ""), ("3,", ""),
     ("3,4", ""), ("2x", ""), ("1e5", ""), ("10:30", ""), ("", ""), ("-", ""), ("\u0663", "")],
)  # fmt: skip
def test_a_bare_number_is_a_number_and_nothing_else(text, number):
    assert bare_number(text) == number


def test_long_numbers_are_compared_as_text():
    assert is_correct(extract("7" * 10_000)[0], ("7" * 10_000,))
    assert not is_correct(extract("7" * 10_000)[0], ("7" * 9_999,))


def test_the_final_line_is_recognised():
    assert has_final_line("steps\n#### 72\n")
    assert not has_final_line("#### 72\nand more")
    assert not has_final_line("use #### to mark")
    assert not has_final_line("#### none")


def test_every_gsm8k_gold_is_found_as_a_plain_reading_of_the_file_finds_it():
    folder = os.environ.get("WHET_TEST_DATA")
    if not folder:
        pytest.skip("WHET_TEST_DATA is not set")
    lines = (Path(folder) / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    for answer in (json.loads(line)["answer"] for line in lines):
        gold = re.split(r"####", answer)[1].strip().replace(",", "")
        assert is_correct(extract(answer)[0], (gold,)) and float(extract(answer)[0]) == float(gold)
