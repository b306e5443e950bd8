"""The answer format `Answer: ...`: the sentence that asks for it, and where a text gives its answer.

The first marker counts. A model that goes on talking often makes up a second question with a second `Answer:`,
and splitting at the last one scores that invention (a fault seen in evaluation scripts).
"""

from __future__ import annotations

import re

INSTRUCTION = "End with the answer on a line of its own, in the form: Answer: ..."
"""Appended to the question, in training and in evaluation of base and tuned alike."""

MAX_CHARACTERS = 100_000
"""Longer texts are judged by their beginning: extraction stays linear and bounded on hostile text."""

_AT_LINE_START = re.compile(r"^[ \t>*_#-]{0,8}answer[ \t]{0,4}[*_]{0,2}[ \t]{0,4}:", re.IGNORECASE | re.MULTILINE)
# `to find the answer:` announces the working, not the answer
_ANNOUNCED = "".join(rf"(?<!\b{verb} the )" for verb in ("find", "get", "calculate", "determine", "compute", "obtain"))
_ANYWHERE = re.compile(rf"{_ANNOUNCED}\banswer[ \t]{{0,4}}[*_]{{0,2}}[ \t]{{0,4}}:", re.IGNORECASE)
_DECORATION = " \t\r*_`\"'"


def find_answer(text: str) -> str | None:
    """What stands behind the first `Answer:` (one at the start of a line before one inside a line), or None.

    If nothing else is on the marker's line, the paragraph below it is the answer.
    """
    text = text[:MAX_CHARACTERS]
    marker = _AT_LINE_START.search(text) or _ANYWHERE.search(text)
    if marker is None:
        return None
    line, _, below = text[marker.end() :].partition("\n")
    if strip_decoration(line):
        return strip_decoration(line)
    paragraph = re.split(r"\n[ \t]*\n", below.lstrip("\n"), maxsplit=1)[0]
    return "\n".join(strip_decoration(line) for line in paragraph.splitlines()).strip()


def find_last_line(text: str) -> str:
    """The last line with anything on it, without quotes and emphasis."""
    lines = text[:MAX_CHARACTERS].strip().splitlines()
    return strip_decoration(lines[-1]) if lines else ""


def strip_decoration(line: str) -> str:
    """The line without white space, quotes and emphasis around it."""
    return line.strip(_DECORATION)
