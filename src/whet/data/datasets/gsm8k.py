"""GSM8K (arXiv:2110.14168): grade-school problems, worked answers with calculator marks, last line `#### 72`."""

from __future__ import annotations

from typing import Any

from whet.data.datasets import math_answer
from whet.data.reading import Format, Reading, RowError, get_text, pair

HUB_ID = "openai/gsm8k"
CONFIG: str | None = "main"
ROWS = {"train": 7_473, "test": 1_319}


def read(row: dict[str, Any]) -> Reading:
    """Question and answer as they are, calculator marks (`<<48/2=24>>`) included; the gold is the last line's, and the
    category how many calculations the answer marks (`2 steps`)."""
    question, answer = get_text(row, "question"), get_text(row, "answer")
    if not math_answer.has_final_line(answer):
        last_line = answer.rstrip().rpartition("\n")[2]
        raise RowError("no final answer", field="answer", found=f"the last line {last_line[:40]!r}",
                       expected="a last line `#### 72` (format: question_answer reads rows without)")  # fmt: skip
    num_steps = answer.count("<<")
    return Reading(
        messages=pair(question, answer),
        task="math_answer",
        golds=(math_answer.extract(answer)[0],),
        category=f"{num_steps} step{'' if num_steps == 1 else 's'}" if num_steps else "",
    )


def _is_own(row: dict[str, Any]) -> bool:
    return isinstance(row["answer"], str) and math_answer.has_final_line(row["answer"])


FORMAT = Format(
    keys=("question", "answer"),
    sample={
        "question": "Tom has 24 pens and buys as many. How many has he?",
        "answer": "24*2 = <<24*2=48>>48\n#### 48",
    },
    read=read,
    is_own=_is_own,
)
