r"""Answers that are numbers: GSM8K's `#### 1,234`, `Answer: ...`, MetaMath's `The answer is: ...`, or the last number.

Numbers are compared exactly (17.6 is not 18; 5.50 is 5.5), as fractions of bounded length and never by evaluating
text. Currency signs, thousands commas and a percent sign do not count.
"""

from __future__ import annotations

import re
from fractions import Fraction

from whet.data.datasets import answer_line

_MAX_DIGITS = 60
"""Longer numbers are compared as text; no integer of unbounded length is ever built."""

_FINAL_LINE = re.compile(r"####[ \t]*(\S[^\n]*)")
_CLAIM = re.compile(r"\bthe answer is[ \t]{0,4}:\s{0,8}(\S[^\n]*)", re.IGNORECASE)
_BARE_NUMBER = re.compile(
    r"""
    (?:\\?\$)? -? (?:\\?\$)?             # LaTeX writes \$
    (?: (?:\d{1,3}(?:,\d{3})+|\d+) (?:\.\d+)? | \.\d+ )
    (?:/\d+)? (?:\\?%)? \$? \.?
    """,
    re.VERBOSE | re.ASCII,
)
_NUMBER = re.compile(r"\\?\$?-?\\?\$?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:/\d+)?(?:\\?%)?\$?\.?", re.ASCII)
_NUMBER = re.compile(
    r"""
    (?P<sign>(?<![\w.)\]])-)?            # a minus behind a digit or a closing bracket subtracts
    (?:[$\u20ac\u00a3](?P<late_sign>-)?)?
    (?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))
    (?P<decimals>\.\d+)?
    (?:/(?P<divisor>\d+))?
    """,
    re.VERBOSE | re.ASCII,
)


def has_final_line(text: str) -> bool:
    """Whether the text ends GSM8K's way, in a line `#### number`."""
    last_line = text.rstrip().rpartition("\n")[2]
    found = _FINAL_LINE.match(last_line)
    return found is not None and _last_number(found[1]) is not None


def extract(text: str) -> tuple[str, bool]:
    """The number as canonical text ("" if there is none), and whether a marker introduced it.

    The first `####` line counts, else the first `Answer:`, both only in front of the first `The answer is:` (what a
    model writes behind its own answer is made up); else that; else the last number of the text. A marker without
    a number gives none: the model said something else.
    """
    text = text[: answer_line.MAX_CHARACTERS].replace("\u2212", "-")
    claim = _CLAIM.search(text)
    head = text[: claim.start()] if claim else text
    final = _FINAL_LINE.search(head)
    marked = final[1] if final else answer_line.find_answer(head)
    if marked is None and claim:
        marked = claim[1]
    number = _last_number(text if marked is None else marked)
    return number or "", marked is not None and number is not None


def last_number(text: str) -> str:
    """The last number of a text, canonical; "" if there is none."""
    return _last_number(text[: answer_line.MAX_CHARACTERS].replace("\u2212", "-")) or ""


def bare_number(text: str) -> str:
    """The number that a text is and nothing else, canonical; "" for a formula or a sentence."""
    text = text[: answer_line.MAX_CHARACTERS].replace("\u2212", "-").strip()
    return (_last_number(text) or "") if _BARE_NUMBER.fullmatch(text) else ""


def is_correct(extracted: str, golds: tuple[str, ...], *, origin: str = "") -> bool:
    """Whether the number has exactly the value of one of the golds."""
    value = _to_value(extracted)
    return value is not None and any(value == _to_value(gold) for gold in golds)


def _last_number(text: str) -> str | None:
    matches = list(_NUMBER.finditer(text))
    if not matches:
        return None
    found = matches[-1]
    sign = "-" if found["sign"] or found["late_sign"] else ""
    whole = found["whole"].replace(",", "").lstrip("0") or "0"
    decimals = (found["decimals"] or "").rstrip("0").rstrip(".")
    divisor = f"/{found['divisor']}" if found["divisor"] else ""
    number = f"{whole}{decimals}{divisor}"
    return number if number == "0" else sign + number


def _to_value(number: str) -> Fraction | str | None:
    if not number:
        return None
    if len(number) > _MAX_DIGITS:
        return number
    canonical = _last_number(number)
    if canonical is None:
        return None
    dividend, _, divisor = canonical.partition("/")
    if divisor and not divisor.strip("0"):
        return canonical
    return Fraction(dividend) / Fraction(divisor or "1")
