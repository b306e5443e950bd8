"""The answer of a text is found where the marks are, however the number is written; nothing is run or rounded."""

import json
import re
import time

import pytest

from whet.data.datasets.math_answer import bare_number, extract, has_final_line, is_correct, last_number

# (text, the number, whether a mark introduced it)
MARKS = [
    ("48/2 = 24\n#### 24", "24", True),
    ("#### 1,200", "1200", True),
    ("#### 1,234,567", "1234567", True),
    ("#### $1,234.50", "1234.5", True),
    ("#### -7", "-7", True),
    ("#### -$7", "-7", True),
    ("#### $-7", "-7", True),
    ("#### \u22127", "-7", True),
    ("#### \u20137", "-7", True),
    ("#### 50%", "50", True),
    ("#### 24.", "24", True),
    ("#### 24 apples (in 3 bags)", "24", True),
    ("#### 24 25", "24", True),
    ("#### 10-5", "5", True),
    ("#### 2 + 2 = 4", "4", True),
    ("#### none", "", False),
    ("I had 5 apples.\n#### none", "", False),
    ("#### 24\n#### 99", "24", True),
    ("#### 24\n\nQuestion: ...\n#### 99", "24", True),
    ("#### 24\n\nTom has 5 hens.\nAnswer: 99", "24", True),
    ("#### 24\nThe answer is: 25", "24", True),
    ("Answer: 24 apples", "24", True),
    ("Answer: 24 apples in 3 bags", "24", True),
    ("Answer: He packs 3 bags, so 24", "24", True),
    ("Answer: $18 per day * 5 days = $90", "90", True),
    ("Answer: 24\nAnswer: 99", "24", True),
    ("Answer: 24\n\nQuestion: What is 2?\nAnswer: 2", "24", True),
    ("Answer: 24\n\nQ: What is 2?\n#### 2", "24", True),
    ("Answer: 24\n\n**Question 2:** What?\n\\boxed{2}", "24", True),
    ("Answer: 2 + 2 = 4", "4", True),
    ("Answer: x = 5", "5", True),
    ("Answer: 17.6 \u2248 18", "18", True),
    ("**Answer:** 24", "24", True),
    ("Final answer: 24", "24", True),
    ("Answer:\n24", "24", True),
    ("I had 5.\nAnswer: none", "", False),
    ("We multiply by 150 to find the answer:\n\n(15 / 5) * 2 = 6\n\nSo, Ann will pay $24", "24", False),
    ("Divide to get the answer: 48/2.\nAnswer: 24", "24", True),
    ("I find the Answer: 24", "24", False),
    ("Answer: \\boxed{24}", "24", True),
    ("Answer: Let us think. 2 + 2 = 4, so \\boxed{4}.", "4", True),
    ("48/2 = 24\nThe answer is: 24", "24", True),
    ("**The answer is:** 24", "24", True),
    ("the answer is :\n$1,024", "1024", True),
    ("The answer is: $\\boxed{24}$.", "24", True),
    ("The answer is: 24\n\nQuestion: ...\nThe answer is: 99", "24", True),
    ("The answer is: 24\n\nQuestion: ...\nAnswer: 99", "24", True),
    ("The answer is: 24\n\nTom ...\n#### 99", "24", True),
    ("Answer: 24\nThe answer is: 25", "24", True),
    ("I had 5. The answer is: none", "", False),
    ("So \\boxed{24}.", "24", True),
    ("$\\boxed{\\frac{1}{2}}$", "1/2", True),
    ("\\boxed{\\text{24 apples}}", "24", True),
    ("\\boxed{\\left(\\frac{3}{4}\\right)}", "3/4", True),
    ("\\boxed{\\boxed{24}}", "24", True),
    ("\\boxed{\\text{a {nested {brace}} of } 24}", "24", True),
    ("\\boxed{3} bags, hence \\boxed{24}", "24", True),
    ("\\boxed{24} and \\boxed{99", "24", True),
    ("\\fbox{24}", "24", True),
    ("set \\{1, 2\\}, \\boxed{24}", "24", True),
    ("}{ \\boxed{24}", "24", True),
    ("\\boxed{x = 5}", "5", True),
    ("\\boxed{x^2 + 1}", "", False),
    ("\\boxed{2\\sqrt{3}}", "", False),
    ("\\boxed{\\frac{\\sqrt{3}}{2}}", "", False),
    ("\\boxed{2\\pi}", "", False),
    ("\\boxed{2x}", "", False),
    ("\\boxed{\\sqrt{16} = 4}", "4", True),
    ("\\boxed{}", "", False),
    ("<think>Answer: 3? No.</think>It is 24.", "24", False),
    ("<think>#### 3</think>#### 24", "24", True),
    ("Question: 2 + 2?\nIt is 4", "4", False),
    ("Let me say it again.\nQuestion: How many?\nAnswer: 24", "24", True),
    ("The answer is 24, not 25", "25", False),
    ("no number", "", False),
    ("", "", False),
]

# (a text without marks, its last number)
NUMBERS = [
    ("It is 3, then 4.", "4"),
    ("He pays 007 dollars.", "7"),
    ("It costs $1,200.", "1200"),
    ("It costs 1,234,567.89 dollars", "1234567.89"),
    ("1,00,000 rupees", "100000"),
    ("1{,}234", "1234"),
    ("1\\,234", "1234"),
    ("1\u202f234", "1234"),
    ("1,23", "23"),
    ("$350,000 more is $350,00", "350000"),
    ("3 times 1,000,0", "3"),
    ("5 bags at 12,05 each", "5"),
    ("1,050 and 10,000", "10000"),
    ("2,3", "3"),
    ("17.6", "17.6"),
    ("5.50", "5.5"),
    ("0.50", "0.5"),
    ("x=.5", "0.5"),
    ("24.", "24"),
    ("24...", "24"),
    ("-0", "0"),
    ("-0.0", "0"),
    ("It is -3", "-3"),
    ("(-3)", "-3"),
    ("\u22123 degrees", "-3"),
    ("a loss of -$5", "-5"),
    ("\u20ac12.50", "12.5"),
    ("\u20b91,500", "1500"),
    ("$ 5", "5"),
    ("\\$5", "5"),
    ("$24$", "24"),
    ("**24**", "24"),
    ("50%", "50"),
    ("50\\%", "50"),
    ("12.5 %", "12.5"),
    ("24km", "24"),
    ("60 km/h", "60"),
    ("5 cm^2", "5"),
    ("5\\text{ cm}^2", "5"),
    ("45^\\circ", "45"),
    ("45^{\\circ}", "45"),
    ("10-3", "3"),
    ("10\u20135", "5"),
    ("10 - 3 = 7", "7"),
    ("pages 10-15", "15"),
    ("COVID-19", "19"),
    ("half: 1/2", "1/2"),
    ("-1/2", "-1/2"),
    ("1 / 2", "1/2"),
    ("1/1,000", "1/1000"),
    ("1/2.5", "1/2.5"),
    ("3 1/2 cups", "7/2"),
    ("-3 1/2", "-7/2"),
    ("3\u00bd", "7/2"),
    ("\u00bd", "1/2"),
    ("in 2020 10/2", "10/2"),
    ("\\frac{1}{2}", "1/2"),
    ("\\dfrac{1}{2}", "1/2"),
    ("\\frac12", "1/2"),
    ("-\\frac{1}{2}", "-1/2"),
    ("\\frac{-1}{2}", "-1/2"),
    ("3\\frac{1}{2}", "7/2"),
    ("\\frac{1,000}{3}", "1000/3"),
    ("1.5e3", "1500"),
    ("2E-3", "0.002"),
    ("1.5 \\times 10^{3}", "1500"),
    ("1.5 x 10^-3", "0.0015"),
    ("5 apples and 1e999", "5"),
    ("2 million", "2000000"),
    ("$1.5 Million", "1500000"),
    ("3 thousandths", "3"),
    ("5 apples at 10:30", "5"),
    ("5 apples on 2024-05-03", "5"),
    ("5 apples on 5/3/2024", "5"),
    ("5 apples of kind 1.2.3", "5"),
    ("2^3 = 8", "8"),
    ("7 and 2^3", "7"),
    ("<<48/2=24>>24 clips", "24"),
    ("\u0661\u0662\u0663", ""),
    ("10:30", ""),
]


@pytest.mark.parametrize(("text", "number", "has_format"), MARKS)
def test_the_number_is_found_where_the_marks_say(text, number, has_format):
    assert extract(text) == (number, has_format)


@pytest.mark.parametrize(("text", "number"), NUMBERS)
def test_the_last_number_is_read_however_it_is_written(text, number):
    assert extract(text) == (number, False)
    assert last_number(text) == number


@pytest.mark.parametrize("number", sorted({number for _, number, *_ in MARKS + NUMBERS} - {""}))
def test_a_canonical_number_reads_as_itself_behind_every_mark(number):
    for text in (number, f"#### {number}", f"\\boxed{{{number}}}", f"Answer: {number}", f"The answer is: {number}."):
        assert extract(text)[0] == number


@pytest.mark.parametrize(
    ("one", "other"),
    [("1,234", "1234"), ("5.50", "5.5"), ("1/2", "0.5"), ("4/2", "2"), ("07", "7"), ("\\frac{3}{4}", ".75"),
     ("3 1/2", "3.5"), ("1.2e3", "1,200"), ("2 million", "2,000,000"), ("1/2.5", "0.4"), ("-1/2", "-.5")],
)  # fmt: skip
def test_equal_numbers_are_equal(one, other):
    assert is_correct(extract(one)[0], (extract(other)[0],))


@pytest.mark.parametrize(
    ("one", "other"),
    [("17.6", "18"), ("5.50", "6"), ("1/2", "0"), ("-4", "4"), ("1/0", "0"), ("0/0", "0"), ("", "0"), ("", ""),
     ("1,234,567", "1234"), ("0.3333", "1/3"), ("50%", "0.5"), ("12.999999999999999999", "13")],
)  # fmt: skip
def test_different_numbers_are_not_equal(one, other):
    assert not is_correct(extract(one)[0], (other,))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch canary')",
        "#### __import__('os').system('touch canary')",
        "9**9**9**9",
        "\\boxed{9**9**9**9}",
        "#### 9^9^9^9",
        "9" * 1_000_000,
        "#### " + "9" * 1_000_000,
        "1," * 500_000,
        "11," * 300_000,
        "111," * 250_000 + "1",
        "1/" * 500_000,
        "1." * 500_000,
        "1:" * 500_000,
        "1 " * 500_000,
        "1e" * 500_000,
        "1^" * 500_000,
        "#" * 1_000_000,
        "#### " * 200_000,
        "-" * 1_000_000,
        "$" * 1_000_000,
        " " * 1_000_000,
        "\n" * 1_000_000,
        "{" * 1_000_000,
        "\\boxed{" * 150_000,
        "\\boxed{" * 50_000 + "}" * 50_000,
        "\\text{" * 150_000,
        "\nQ:" * 300_000,
        "=" * 1_000_000,
        "a" * 1_000_000,
        "the answer is:" * 100_000,
        "the answer is" + " " * 1_000_000,
        "answer" + " " * 1_000_000,
        "\\frac{" * 2_000 + "1" + "}" * 2_000,
        "\\boxed{" + "\\frac{" * 2_000 + "1" + "}{2}" * 2_000 + "}",
        "\\frac{" + "9" * 1_000_000 + "}{2}",
        "3 1/" + "9" * 1_000_000,
        "9" * 1_000_000 + " 1/2",
        "1e999999999",
        "1e99 million",
        "\u0661\u0662\u0663",
    ],
    ids=lambda text: text[:12],
)
def test_hostile_text_gets_a_verdict_at_once_and_runs_nothing(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.process_time()  # of this process: a busy machine is not the text's fault
    number, _ = extract(text)
    assert not is_correct(number, ("42",))
    assert not bare_number(text) or is_correct(bare_number(text), (bare_number(text),))
    assert time.process_time() - start < 1.0
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


@pytest.mark.parametrize(("split", "num_rows"), [("test", 1_319), ("train", 7_473)])
def test_every_gsm8k_gold_scores_itself_and_is_what_a_plain_reading_of_the_file_finds(split, num_rows, test_data):
    lines = (test_data / "gsm8k" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == num_rows
    for answer in (json.loads(line)["answer"] for line in lines):
        gold = re.split(r"####", answer)[1].strip().replace(",", "")
        number, has_format = extract(answer)
        assert has_format
        assert is_correct(number, (gold,))
        assert float(number) == float(gold)
