"""databricks-dolly-15k in NeMo's form: instructions, some with a context, cut into 80 % train, 15 % and 5 %.

NeMo throws a coin for the order of context and instruction and does not seed it, so its texts differ from run to run;
here the row's own content decides. The rows of each split are NeMo's (nemo_split.py).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from whet.data.datasets.nemo_split import SplitRule, train_test_split
from whet.data.reading import Format, Reading, get_category, get_text, pair

HUB_ID = "databricks/databricks-dolly-15k"
CONFIG: str | None = None
ROWS = {"train": 15_011}

# NeMo's own expressions: their rounding errors decide where a share of the rows is just above a whole number
_TEST_SHARE = 1 - 0.80 - 0.15
_HELD_OUT_SHARE = 0.15 + _TEST_SHARE


def read(row: dict[str, Any]) -> Reading:
    """Context and instruction as two paragraphs in one order or the other; without context the instruction alone."""
    question, response = get_text(row, "instruction"), get_text(row, "response")
    context = get_text(row, "context", may_be_empty=True).strip() if "context" in row else ""
    if context:
        instruction = question.strip()
        parts = (context, instruction) if _is_context_first(context, instruction) else (instruction, context)
        question = "\n\n".join(parts)
    category = get_category(row, "category")
    return Reading(messages=pair(question, response), task="plain_answer", golds=(response,), category=category)


def _is_context_first(context: str, instruction: str) -> bool:
    return hashlib.sha256(f"{context}\0{instruction}".encode()).digest()[0] % 2 == 0


def cut(num_rows: int) -> dict[str, np.ndarray]:
    """Row numbers of each split, ascending: 12,008 / 2,252 / 751 of 15,011."""
    train, held_out = train_test_split(num_rows, _HELD_OUT_SHARE)
    validation, test = train_test_split(len(held_out), _TEST_SHARE / _HELD_OUT_SHARE)
    return {"train": np.sort(train), "validation": np.sort(held_out[validation]), "test": np.sort(held_out[test])}


SPLIT_RULE = SplitRule(
    hub_splits={"train": "train", "validation": "train", "test": "train", "all": "train"},
    cut=cut,
    parts=("train", "validation", "test"),
    sentence="NeMo's cut, train 80 %, validation 15 %, test 5 % of the rows (seed 1234); `all` takes every row",
)

FORMAT = Format(
    keys=("instruction", "response"),
    optional_keys=("context", "category"),
    sample={"instruction": "Who wrote it?", "context": "Emma is by Jane Austen.", "response": "Jane Austen"},
    read=read,
)
