"""Examples made by hand, and their tokens without a cache or a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whet.data import templates
from whet.data.tokenize import tokenize_stream
from whet.types import Example, LedgerRow, Message, TokenizedSample


def make_example(question: str, answer: str = "4", name: str = "a", **others: Any) -> Example:
    """One question and one taught answer; `name` is its id and the line it came from."""
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer, is_taught=True))
    return Example(**{"id": name, "messages": turns, "task": "plain_answer", "origin": f"rows.jsonl:{name}", **others})


def tokenize(
    examples: Sequence[Example], tokenizer: Any, *, template: str = "chat", end_ids: Sequence[int] = (),
    max_length: int = 200, over_length: str = "drop",
) -> tuple[list[TokenizedSample], list[LedgerRow]]:  # fmt: skip
    """Samples and notes of all examples."""
    built = templates.build_template(tokenizer, template, end_ids or [tokenizer.eos_token_id])
    found = list(tokenize_stream(built, examples, max_length=max_length, over_length=over_length))
    assert [each.example for each in found] == list(examples)
    return [each.sample for each in found if each.sample], [each.note for each in found if each.note]
