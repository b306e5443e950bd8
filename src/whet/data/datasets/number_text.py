r"""Numbers as people and models write them: found in text, written in one canonical way, compared exactly.

Read: `-7`, `-$7`, `$-7`, `\u22127`, `1,234,567`, `1,00,000`, `.5`, `5.50`, `1/2`, `3 1/2`, `3\frac{1}{2}`, `\frac12`,
`1.5e3`, `1.5 \times 10^{3}`, `2 million`, `1{,}234`. Currency signs, percent signs and units do not count: 50 % is 50.
No number: a date (2024-05-03, 5/3/2024), a clock time (10:30), a power (2^3), 1.2.3, 350,00, an exponent of three
digits.
Nothing is evaluated or rounded, and a text of any content is read in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

MAX_DIGITS = 60
"""Longer numbers are compared as text; no integer of unbounded length is ever built."""

_SCALES = {"": 0, "thousand": 3, "million": 6, "billion": 9}

# repetitions are possessive or bounded throughout: no text can make a match start over and over
_TOKEN = re.compile(
    r"""
    (?P<other>
        \d{4}-\d{1,2}-\d{1,2}(?!\d) | \d{1,2}/\d{1,2}/(?:\d{4}|\d{2})(?!\d)     # dates
      | \d{1,2}:\d{2}(?::\d{2})?(?!\d)                                          # clock times
      | \d++(?:\.\d++){2,}+                                                     # versions, 1.234.567
      | (?:[$\u20ac\u00a3\u00a5\u20b9][ ]?)?\d{1,3}(?:,\d{3}){0,20},0\d?(?!,?\d)   # 350,00: cut off, or 350.00
      | \d++(?:\.\d++)?[eE][+-]?\d{3,}+                                         # 1e999
      | \d++(?:\.\d++)?[ ]?\^[ ]?\{?[+-]?\w++\}?                                # powers
    )
  | (?P<sign>(?<![\w.)\]}])-)?          # a minus behind a digit or a closing bracket subtracts
    (?:[$\u20ac\u00a3\u00a5\u20b9][ ]?(?P<late_sign>-)?)?
    (?P<whole>
        \d{1,3}(?:,\d{3}){1,20}(?!\d) | \d{1,2}(?:,\d{2}){1,8},\d{3}(?!\d) | \d++ | (?=\.\d)
    )
    (?P<decimals>\.\d++)?
    (?:[eE](?P<power>[+-]?\d{1,2})(?!\w))?
    (?:
        (?:[ ](?P<numerator>\d{1,3}))?
        [ ]?/[ ]?(?P<divisor>(?:\d{1,3}(?:,\d{3}){1,20}|\d++)(?:\.\d++)?)
    )?
    (?:[ ](?P<scale>(?i:thousand|million|billion))\b)?
    """,
    re.VERBOSE | re.ASCII,
)
_BARE = re.compile(
    r"""
    (?:\\?\$)? -? (?:\\?\$)?             # LaTeX writes \$
    (?: (?:\d{1,3}(?:,\d{3})+|\d+) (?:\.\d+)? | \.\d+ )
    (?:/\d+)? (?:\\?%)? \$? \.?
    """,
    re.VERBOSE | re.ASCII,
)
_OPERATOR = re.compile(r"[ ]?[-+*/x\u00d7\u00b7\u00f7^][ ]?[-$(.\d]", re.ASCII)
_LEAD_IN = re.compile(r"[\s$*_`\"'(\[{~:]*+")
_FORMULA = re.compile(r"\\(?!f?box|text)[a-zA-Z]|\^|\u221a|\u03c0|\d[xyz]\b", re.ASCII)
_EQUALS = re.compile(r"[=\u2248]")

_VULGAR = {"\u00bd": " 1/2", "\u00bc": " 1/4", "\u00be": " 3/4", "\u2153": " 1/3", "\u2154": " 2/3"}
_CHARACTERS = str.maketrans({"\u2212": "-", "\u2013": "-", "\ufe63": "-", "\uff0d": "-"} | _VULGAR)
_ARGUMENT = r"[ ]?\{[ ]?(-?)([\d.,]{1,60})[ ]?\}"


def _write_fraction(found: re.Match[str]) -> str:
    dividend, divisor = found[2] or found[3], found[5] or found[6]
    is_mixed = found.start() > 0 and found.string[found.start() - 1].isdigit()
    sign = "-" if (found[1] or "") != (found[4] or "") else ""
    return f"{' ' if is_mixed else ''}{sign}{dividend}/{divisor}"


Replacement = str | Callable[[re.Match[str]], str]
_REWRITES: tuple[tuple[re.Pattern[str], Replacement], ...] = (
    (re.compile(r"(?<=\d)(?:\\,|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))|\{,\}|,\\!", re.ASCII), ","),
    (re.compile(r"\\([$%#&])"), r"\1"),
    (re.compile(r"\\(?:left|right|displaystyle|quad|qquad)\b|\\[!,;: ]|\^[ ]?\{?\\circ\}?|\\degree\b"), " "),
    (re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)[ ]?\{([^{}]*+)\}"), r" \1 "),
    (re.compile(rf"\\[dtc]?frac(?:{_ARGUMENT}|[ ]?(\d))(?:{_ARGUMENT}|[ ]?(\d))", re.ASCII), _write_fraction),
    (re.compile(r"(?<![a-zA-Z])([a-z]{2,8}|m)[ ]?\^[ ]?\{?[23]\}?(?!\d)", re.ASCII), r"\1"),  # square and cubic units
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"\\approx\b"), "\u2248"),
    (re.compile(r"(?<=\d)[ ]{0,2}[*x\u00d7][ ]{0,2}10[ ]?\^[ ]?(?:\{([+-]?\d{1,2})\}|([+-]?\d{1,2}))(?!\d)", re.ASCII),
     lambda found: f"e{found[1] or found[2]}"),
)  # fmt: skip


def to_plain(text: str) -> str:
    """The text with LaTeX and typographic notation of numbers written in ASCII (`\\frac{1}{2}` as `1/2`)."""
    text = text.translate(_CHARACTERS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text


def last_number(text: str) -> str:
    """The last number of a plain text, canonical; "" if there is none."""
    _, last = _first_and_last(text)
    return _canonical(last) if last else ""


def stated_number(text: str) -> str:
    """The number that a short plain text states as its answer, canonical; "" for none and for a formula (`2x`, `x^2`).

    Behind the last equals sign: the number that the text begins with unless an operator and a further one follow it
    (`24 apples in 3 bags`, `18 per day`), else the last one (`he has 3 bags, so 24`, `10-5`).
    """
    text = _EQUALS.split(text)[-1]
    first, last = _first_and_last(text)
    if first is None or last is None or _FORMULA.search(text):
        return ""
    lead_in = _LEAD_IN.match(text)
    begins = lead_in is not None and first.start() <= lead_in.end()
    return _canonical(first if begins and not _OPERATOR.match(text, first.end()) else last)


def bare_number(text: str) -> str:
    """The number that a text is and nothing else, canonical; "" for a formula or a sentence."""
    text = text.translate(_CHARACTERS).strip()
    return last_number(text) if _BARE.fullmatch(text) else ""


def to_value(number: str) -> Fraction | str | None:
    """The exact value of a canonical number; its text where it is too long or divides by zero; None for no number."""
    if len(number) > MAX_DIGITS:
        return number
    canonical = last_number(number)
    if not canonical:
        return None
    dividend, _, divisor = canonical.partition("/")
    if divisor and not divisor.strip("0."):
        return canonical
    return Fraction(dividend) / Fraction(divisor or "1")


def _first_and_last(text: str) -> tuple[re.Match[str] | None, re.Match[str] | None]:
    """Of the numbers; the others are not kept, of which a text of megabytes may hold hundreds of thousands."""
    first = last = None
    for found in _TOKEN.finditer(text):
        if found["other"] is None:
            first, last = first or found, found
    return first, last


def _canonical(found: re.Match[str]) -> str:
    whole, decimals = found["whole"].replace(",", ""), (found["decimals"] or ".")[1:]
    divisor = (found["divisor"] or "").replace(",", "")
    if numerator := found["numerator"]:
        is_mixed = not decimals and not found["power"] and len(whole + divisor) <= MAX_DIGITS and "." not in divisor
        if is_mixed and int(numerator) < int(divisor):
            whole = str(int(whole) * int(divisor) + int(numerator))
        else:
            whole, decimals = numerator, ""
    power = int(found["power"] or 0) + _SCALES[(found["scale"] or "").lower()]
    number = _shift_point(whole, decimals, power) + (f"/{divisor}" if divisor else "")
    sign = "-" if found["sign"] or found["late_sign"] else ""
    return number if number == "0" else sign + number


def _shift_point(whole: str, decimals: str, power: int) -> str:
    """`whole.decimals` times ten to the `power`, without zeros that say nothing."""
    digits, point = whole + decimals, len(whole) + power
    digits = digits.rjust(len(digits) - point, "0") if point < 0 else digits.ljust(point, "0")
    point = max(point, 0)
    decimals = digits[point:].rstrip("0")
    return (digits[:point].lstrip("0") or "0") + (f".{decimals}" if decimals else "")
