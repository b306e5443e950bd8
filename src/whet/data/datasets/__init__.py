"""Datasets by name, and tasks: how an answer is taken out of a text and judged. Plain tables, one line per module.

A task module has `extract(text) -> (extracted, has_format)` and `is_correct(extracted, golds, *, origin) -> bool`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from whet.data.datasets import (
    dolly,
    fiqa,
    generated,
    gsm8k,
    math_answer,
    metamathqa,
    plain_answer,
    squad,
    symbolic_answer,
)
from whet.data.datasets.nemo_split import SplitRule
from whet.data.reading import Format
from whet.recipe.schema import Source
from whet.recipe.splits import parse_split
from whet.types import Example, Judgement


class Task(Protocol):
    """What a task module offers."""

    def extract(self, text: str) -> tuple[str, bool]:
        """The answer a text gives, and whether it stands in the asked-for format."""

    def is_correct(self, extracted: str, golds: tuple[str, ...], *, origin: str = "") -> bool:
        """Whether the extracted answer is one of the golds; `origin` is the example's, for generated problems."""


class Dataset(Protocol):
    """What a dataset module offers."""

    HUB_ID: str
    CONFIG: str | None
    """configuration on the hub that is meant where the recipe names none"""
    ROWS: dict[str, int]
    """rows of each split on the hub"""
    FORMAT: Format


TASKS: dict[str, Task] = {
    "plain_answer": plain_answer,
    "math_answer": math_answer,
    "generated": generated,
    "symbolic_answer": symbolic_answer,
}

DATASETS: dict[str, Dataset] = {
    "gsm8k": gsm8k,
    "metamathqa": metamathqa,
    "fiqa": fiqa,
    "dolly": dolly,
    "squad": squad,
}
"""by the name of the format of their rows"""

SPLIT_RULES: dict[str, SplitRule] = {"dolly": dolly.SPLIT_RULE, "squad": squad.SPLIT_RULE}
"""datasets whose splits are not the hub's"""


def find_dataset(hub_id: str) -> str | None:
    """Name of the dataset with this hub id."""
    return next((name for name, dataset in DATASETS.items() if hub_id == dataset.HUB_ID), None)


def known_rows(source: Source) -> int | None:
    """Rows of a hub dataset's split after the dataset's split rule, before slice and limit; None if not known."""
    stretch = parse_split(source.split)
    name = find_dataset(source.source)
    if stretch is None or name is None or source.config not in (None, DATASETS[name].CONFIG):
        return None
    rows = DATASETS[name].ROWS
    rule = SPLIT_RULES.get(name) if source.format in ("auto", name) else None
    hub_split = rule.hub_splits.get(stretch.name, "") if rule else stretch.name
    num_rows = sum(rows.values()) if hub_split == "all" else rows.get(hub_split)
    return None if num_rows is None else part_size(name if rule else None, stretch.name, num_rows)


def part_size(name: str | None, split: str, num_rows: int) -> int:
    """Rows that a split has of a set of `num_rows`: a part where the dataset's rule cuts it, else all of them."""
    rule = SPLIT_RULES.get(name) if name else None
    return len(rule.cut(num_rows)[split]) if rule and split in rule.parts else num_rows


def with_judge(example: Example, judge: str) -> Example:
    """The example as it is judged with `evaluate[].judge`; its id stays."""
    if judge == "own":
        return example
    return replace(example, task="symbolic_answer", golds=symbolic_answer.golds_of(example.messages[-1].content))


def require_judge(judge: str) -> None:
    """RecipeError where what judges is not installed."""
    if judge == "math_verify":
        symbolic_answer.require()


def judge(example: Example, text: str) -> Judgement:
    """Score one generated text for one example."""
    task = TASKS[example.task]
    extracted, has_format = task.extract(text)
    return Judgement(
        example_id=example.id,
        extracted=extracted,
        golds=example.golds,
        is_correct=task.is_correct(extracted, example.golds, origin=example.origin),
        has_format=has_format,
    )
