"""SQuAD (arXiv:1606.05250) in NeMo's form: `Context: ... Question: ... Answer:`, validation cut from train.

Flat rows as the hub has them, and the original nested files of version 1.1 and 2.0. Questions that the context does
not answer (version 2) are left out by rule. A local file is the set that is cut: `train` is 95 % of it and `validation`
5 %, `all` is the whole file, whatever its name says (`dev-v2.0.json` too).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from whet.data.datasets.nemo_split import SplitRule, train_test_split
from whet.data.reading import (
    Format,
    LeftOutError,
    Reading,
    RowError,
    check_text,
    get_text,
    get_texts,
    get_value,
    name_type,
    pair,
)

HUB_ID = "rajpurkar/squad"
CONFIG: str | None = None
ROWS = {"train": 87_599, "validation": 10_570}

_ANSWERS = "{text: [...]} or a list of {text}"


def read(row: dict[str, Any]) -> Reading:
    """The first gold answer is learned, all are kept for scoring; LeftOutError where the context has no answer."""
    context, question = get_text(row, "context"), get_text(row, "question")
    golds = _read_golds(row)
    prompt = f"Context: {context} Question: {question} Answer:"
    return Reading(messages=pair(prompt, golds[0]), task="plain_answer", golds=golds)


def _read_golds(row: dict[str, Any]) -> tuple[str, ...]:
    is_impossible = row.get("is_impossible")
    if is_impossible is not None and not isinstance(is_impossible, bool):
        raise RowError("not a boolean", field="is_impossible", found=name_type(is_impossible), expected="true or false")
    answers = get_value(row, "answers", _ANSWERS) if not is_impossible else []
    if isinstance(answers, dict):
        answers = get_value(answers, "text", "a list of texts", place="answers.")
        field = "answers.text"
    elif isinstance(answers, list):
        answers = [_read_answer(answer, f"answers[{index}]") for index, answer in enumerate(answers)]
        field = "answers"
    else:
        raise RowError("not a list of answers", field="answers", found=name_type(answers), expected=_ANSWERS)
    # on the hub version 2 marks a question without an answer by an empty list alone
    if answers == [] and is_impossible is not False:
        raise LeftOutError("question without an answer", field="answers", found="none", expected="one in the context")
    return get_texts(answers, field)


def _read_answer(answer: Any, place: str) -> str:
    if not isinstance(answer, dict):
        raise RowError("not an answer", field=place, found=name_type(answer), expected="{text}")
    return check_text(get_value(answer, "text", "text", place=f"{place}."), f"{place}.text")


def is_nested(value: Any) -> bool:
    """Whether this is a whole file in SQuAD's original structure: `data` of articles of paragraphs of questions."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        return False
    return any(isinstance(article, dict) and "paragraphs" in article for article in value["data"])


def flatten(value: dict[str, Any]) -> Iterator[tuple[dict[str, Any] | None, RowError | None]]:
    """The questions of a nested file as flat rows, in order; in place of a broken part its fault."""
    for article, place, fault in _parts(value, "data", ""):
        if fault:
            yield None, fault
            continue
        for paragraph, paragraph_place, paragraph_fault in _parts(article, "paragraphs", f"{place}."):
            if paragraph_fault:
                yield None, paragraph_fault
                continue
            for question, _, question_fault in _parts(paragraph, "qas", f"{paragraph_place}."):
                if question_fault:
                    yield None, question_fault
                else:
                    own = {"context": paragraph["context"]} if "context" in paragraph else {}
                    yield {"title": article.get("title"), **own, **question}, None


def _parts(whole: dict[str, Any], key: str, place: str) -> Iterator[tuple[dict[str, Any], str, RowError | None]]:
    parts = whole.get(key)
    if not isinstance(parts, list):
        found = name_type(parts) if key in whole else "no such key"
        yield {}, place, RowError("not a list", field=place + key, found=found, expected="a list of objects")
        return
    for index, part in enumerate(parts):
        here = f"{place}{key}[{index}]"
        is_object = isinstance(part, dict)
        fault = (
            None if is_object else RowError("not an object", field=here, found=name_type(part), expected="an object")
        )
        yield part if is_object else {}, here, fault


def cut(num_rows: int) -> dict[str, np.ndarray]:
    """Row numbers of train and validation, ascending: 83,219 / 4,380 of 87,599."""
    train, validation = train_test_split(num_rows, 0.05)
    return {"train": np.sort(train), "validation": np.sort(validation)}


SPLIT_RULE = SplitRule(
    hub_splits={"train": "train", "validation": "train", "test": "validation", "all": "all"},
    cut=cut,
    parts=("train", "validation"),
    sentence="NeMo's cut, train 95 %, validation 5 % of the train set (seed 1234); `all` takes every row",
)

FORMAT = Format(
    keys=("context", "question", "answers"),
    optional_keys=("is_impossible",),
    sample={
        "context": "Emma is by Jane Austen.",
        "question": "Who wrote Emma?",
        "answers": {"text": ["Jane Austen", "Austen"], "answer_start": [11, 16]},
    },
    read=read,
)
