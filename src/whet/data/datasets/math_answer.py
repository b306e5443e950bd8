r"""Answers that are numbers: GSM8K's `#### 1,234`, `\boxed{...}`, `Answer: ...`, MetaMath's `The answer is: ...`.

Where none of these marks is, the last number of the text counts. Numbers are compared exactly (17.6 is not 18; 5.50 is
5.5; 1/2 is 0.5), as fractions of bounded length and never by evaluating text. What is read as a number is said in
number_text.py.
"""

from __future__ import annotations

import re

from whet.data.datasets import answer_line, number_text

_FINAL_LINE = re.compile(r"####[ \t]*(\S[^\n]*)")
_CLAIM = re.compile(r"\bthe answer is[ \t]{0,4}:\s{0,8}(\S[^\n]*)", re.IGNORECASE)
_NEXT_QUESTION = re.compile(r"\n[ \t]{0,4}[*#]{0,4}[ \t]{0,2}Q(?:uestion)?[ \t]?\d{0,4}[*]{0,2}:", re.IGNORECASE)
_BOX_OR_BRACE = re.compile(r"\\f?box(?:ed)?[ ]?\{|\\[{}]|[{}]")
_END_OF_THOUGHT = "</think>"


def has_final_line(text: str) -> bool:
    """Whether the text ends GSM8K's way, in a line `#### number`."""
    last_line = text.rstrip().rpartition("\n")[2]
    found = _FINAL_LINE.match(last_line)
    return found is not None and bool(number_text.stated_number(number_text.to_plain(found[1])))


def extract(text: str) -> tuple[str, bool]:
    """The number as canonical text ("" if there is none), and whether a mark introduced it.

    What stands behind a reasoning model's thought counts, and only up to a `Question:` that follows an answer: what a
    model writes behind its own answer is made up. In that, and in front of the first `The answer is:`, the first `####`
    counts, else the last closed `\\boxed{}` (as MATH is scored, arXiv:2103.03874), else the first `Answer:`; else what
    follows `The answer is:`; else the last number. A mark without a number gives none: the model said something else.
    """
    text = number_text.to_plain(own_answer(text))
    marked = find_marked(text)
    if marked is None:
        return number_text.last_number(text), False
    number = number_text.stated_number(marked)
    return number, bool(number)


def last_number(text: str) -> str:
    """The last number of a text, canonical; "" if there is none."""
    return number_text.last_number(number_text.to_plain(text[: answer_line.MAX_CHARACTERS]))


def bare_number(text: str) -> str:
    """The number that a text is and nothing else, canonical; "" for a formula or a sentence."""
    return number_text.bare_number(text[: answer_line.MAX_CHARACTERS])


def is_correct(extracted: str, golds: tuple[str, ...], *, origin: str = "") -> bool:
    """Whether the number has exactly the value of one of the golds."""
    value = number_text.to_value(extracted)
    return value is not None and any(value == number_text.to_value(gold) for gold in golds)


def own_answer(text: str) -> str:
    """The part of a text that counts: behind a thought, before a question that the model made up, and bounded."""
    _, thought_end, answer = text[: answer_line.MAX_CHARACTERS].partition(_END_OF_THOUGHT)
    text = answer if thought_end else text[: answer_line.MAX_CHARACTERS]
    following = _NEXT_QUESTION.search(text)
    # a question that is restated before anything was answered is no end
    is_end = following is not None and re.search(r"[0-9]", text[: following.start()])
    return text[: following.start()] if following and is_end else text


def find_marked(text: str) -> str | None:
    """What stands behind the mark that counts (the rule is `extract`'s); None where there is no mark."""
    claim = _CLAIM.search(text)
    head = text[: claim.start()] if claim else text
    if final := _FINAL_LINE.search(head):
        return final[1]
    marked = _last_boxed(head)
    if marked is None:
        marked = answer_line.find_answer(head)
    return claim[1] if marked is None and claim else marked


def _last_boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{}` whose braces are closed; of nested ones the outermost."""
    open_at: list[int | None] = []
    content = None
    for found in _BOX_OR_BRACE.finditer(text):
        if found[0] == "}":
            start = open_at.pop() if open_at else None
            content = text[start : found.start()] if start is not None else content
        elif not found[0].startswith("\\") or len(found[0]) > 2:
            open_at.append(found.end() if found[0].startswith("\\") else None)
    return content
