"""MetaMathQA (arXiv:2309.12284): rewritten GSM8K and MATH problems; a response ends in `The answer is: 72`."""

from __future__ import annotations

from typing import Any

from whet.data.datasets import math_answer
from whet.data.reading import Format, Reading, get_category, get_text, pair

HUB_ID = "meta-math/MetaMathQA"
CONFIG: str | None = None
ROWS = {"train": 395_000}

_MARK = "The answer is:"


def read(row: dict[str, Any]) -> Reading:
    """Query and response as they are; the gold is what stands behind the last mark, if that is a number.

    Many MATH answers are formulas (`\\frac{\\sqrt{3}}{2}`): these rows are trained on but not scored.
    """
    query, response = get_text(row, "query"), get_text(row, "response")
    _, mark, answer = response.rpartition(_MARK)
    gold = math_answer.bare_number(answer) if mark else ""
    return Reading(
        messages=pair(query, response),
        task="math_answer",
        golds=(gold,) if gold else (),
        category=get_category(row, "type"),
    )


FORMAT = Format(
    keys=("query", "response"),
    optional_keys=("type",),
    sample={"query": "What is 24 times 2?", "response": "24*2 = 48\n#### 48\nThe answer is: 48"},
    read=read,
)
