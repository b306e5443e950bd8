"""Evaluation rows that are also training rows: found before training, and refused.

Two rows overlap when their questions read the same (white space, case and Unicode forms aside) or when they were
made from the same thing: the same bare question under another instruction, the same words or numbers of a
generated problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from whet.data.rows import normalise
from whet.errors import DataError
from whet.types import Example

_NUM_LISTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """One evaluation row that is also in the training rows."""

    eval_origin: str
    train_origin: str
    kind: Literal["question", "parameters"]


def find_overlap(train_examples: Sequence[Example], eval_examples: Sequence[Example]) -> tuple[Overlap, ...]:
    """Every evaluation row with its first equal training row, in the order of the evaluation rows."""
    by_question = {normalise_question(example): example for example in reversed(train_examples)}
    by_parameters = {example.parameters: example for example in reversed(train_examples) if example.parameters}
    found = []
    for example in eval_examples:
        kind: Literal["question", "parameters"] = "question"
        twin = by_question.get(normalise_question(example))
        if twin is None:
            kind, twin = "parameters", by_parameters.get(example.parameters)
        if twin is not None:
            found.append(Overlap(eval_origin=example.origin, train_origin=twin.origin, kind=kind))
    return tuple(found)


def refuse_overlap(train_examples: Sequence[Example], eval_examples: Sequence[Example], *, eval_name: str) -> None:
    """Raise DataError naming the first pairs unless the two sets are disjoint."""
    found = find_overlap(train_examples, eval_examples)
    if not found:
        return
    lines = [f"{len(found)} of {len(eval_examples)} rows are also training rows, so a score would mean nothing"]
    lines += [f"    {pair.eval_origin} = {pair.train_origin} (same {pair.kind})" for pair in found[:_NUM_LISTED]]
    mend = "use another split, or slices that do not meet such as train[:900] and train[900:]"
    raise DataError("\n".join(lines), where=eval_name, mend=mend)


def normalise_question(example: Example) -> str:
    """Everything the users said, in one comparable text."""
    return normalise("\n".join(message.content for message in example.messages if message.role == "user"))
