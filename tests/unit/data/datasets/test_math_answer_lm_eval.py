"""Our extraction beside lm-eval's two filters for GSM8K: where they judge otherwise, the reason is written here.

The filters are those of lm-evaluation-harness, tasks/gsm8k/gsm8k.yaml (`strict-match` takes the first match,
`flexible-extract` the last, `[invalid]` where there is none), compared as its exact_match does there: lower case,
without the patterns of `regexes_to_ignore`, as text.
"""

import json
import random
import re

import pytest

from whet.data.datasets.math_answer import extract, is_correct

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
IGNORED = (r",", r"\$", r"(?s).*#### ", r"\.$")


def strict(text: str) -> str:
    matches = STRICT.findall(text)
    return matches[0].strip() if matches else "[invalid]"


def flexible(text: str) -> str:
    matches = FLEXIBLE.findall(text)
    return next(group for group in matches[-1] if group).strip() if matches else "[invalid]"


def theirs(extracted: str, gold: str) -> bool:
    for pattern in IGNORED:
        extracted, gold = re.sub(pattern, "", extracted), re.sub(pattern, "", gold)
    return extracted.lower() == gold.lower()


def ours(text: str, gold: str) -> bool:
    return is_correct(extract(text)[0], (extract(f"#### {gold}")[0],))


def test_all_gsm8k_golds_are_right_by_all_three(test_data):
    lines = (test_data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    assert len(answers) == 1_319
    for answer in answers:
        gold = answer.rpartition("#### ")[2]
        assert ours(answer, gold)
        assert theirs(strict(answer), gold)
        assert theirs(flexible(answer), gold)


def test_gsm8k_golds_of_other_rows_are_wrong_by_all_three(test_data):
    lines = (test_data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    for answer, other in zip(answers, answers[1:] + answers[:1], strict=True):
        gold = other.rpartition("#### ")[2]
        is_same = float(gold.replace(",", "")) == float(answer.rpartition("#### ")[2].replace(",", ""))
        assert {ours(answer, gold), theirs(strict(answer), gold), theirs(flexible(answer), gold)} == {is_same}


# form of a generation -> whether ours, strict and flexible take it for right when {right} is the gold. In each form a
# model gave {right} as its answer, so the first column says what a reader would say, unless a comment says otherwise.
FORMS = {
    # agreement
    "{a} + {b} = {right}\n#### {right}": (True, True, True),
    "So it is {right}.": (True, False, True),
    "{a} and {b} make {right} apples": (True, False, True),
    "The answer is: {right}": (True, False, True),
    # strict wants `#### ` with one space and a bare number; a dollar sign, two spaces or none are not its form
    "#### ${right}": (True, False, True),
    "####{right}": (True, False, True),
    # flexible takes the last number of all, whatever the answer was: behind the marked one, in a made-up next question,
    # in the unit, in the reason
    "#### {right}\n\nQuestion: Tom has {a} hens.": (True, True, False),
    "#### {right} apples in {a} bags": (True, True, False),
    "The answer is: {right}\n\nTom has {a} hens.": (True, False, False),
    "Answer: {right} apples, for {a} > {b}": (True, False, False),
    "\\boxed{{{right}}}, since {a} > {b}": (True, False, False),
    # flexible keeps what clings to the number: decimal zeros are other text, an ellipsis stays but for one stop
    "It costs ${right}.00": (True, False, False),
    "It is {right}...": (True, False, False),
    # flexible takes a lone stop or dollar sign pair for a number (`[$0-9.,]{{2,}}`)
    "It is {right} apples ...": (True, False, False),
    "It is $${right}$$ $$": (True, False, False),
    # a date or a time behind the answer is a number for flexible
    "It is {right}, ready by 10:30": (True, False, False),
    # a subtraction sign becomes the number's sign in flexible: 9-{right} is read as -{right}, and so are page ranges.
    # Ours takes the last number, which is no subtraction either: this is the stated last-number rule, not arithmetic
    "{a}-{right}": (True, False, False),
    # and where the number is the same value in another writing, text is not equal
    "The answer is: {right}/1": (True, False, False),
    "\\frac{{{right}}}{{1}}": (True, False, False),
    # no answer was given: the mark says none, and only flexible goes on looking
    "I had {right}.\n#### none": (False, False, True),
    "Half: {right}.\nAnswer: unknown": (False, False, True),
    # a formula is no number; flexible takes its last digits
    "\\boxed{{\\sqrt{{{right}}}}}": (False, False, True),
    "The answer is: x^{right}": (False, False, True),
    # a rounded value is another number for all three
    "#### {right}.4": (False, False, False),
    # a thousand times a thousandth: all three see other numbers
    "{right}000": (False, False, False),
}


def generations() -> list[tuple[str, str, str]]:
    """(form, text, gold): every form with 20 golds, a third of them negative or with thousands commas."""
    generator = random.Random(4)
    rows = []
    for form in FORMS:
        for index in range(20):
            number = generator.randint(11, 99) if index % 3 else generator.randint(1_000, 9_999_999)
            a, b = generator.randint(100, 500), generator.randint(2, 9)
            gold = f"{number:,}"
            rows.append((form, form.format(right=gold, a=a, b=b), gold))
    return rows


def test_right_answers_in_hundreds_of_generations_are_judged_as_explained():
    rows = generations()
    assert len(rows) == 20 * len(FORMS) >= 500
    for form, text, gold in rows:
        verdict = (ours(text, gold), theirs(strict(text), gold), theirs(flexible(text), gold))
        assert verdict == FORMS[form], text


def test_a_right_answer_is_never_refused_by_ours_where_strict_takes_it():
    assert all(ours(text, gold) for _, text, gold in generations() if theirs(strict(text), gold))


@pytest.mark.parametrize("wrong", ["7", "1", "-24", "24.5", "240", "2,400"])
def test_wrong_answers_are_wrong_by_ours(wrong):
    for form in FORMS:
        text = form.format(right=wrong, a=300, b=3)
        assert not ours(text, "24"), text
