"""Stanford Alpaca's `instruction`, `input` (may be empty or absent) and `output`."""

from __future__ import annotations

from typing import Any

from whet.data.formats.answers import read_answer
from whet.data.reading import Format, Reading, get_text, pair


def read(row: dict[str, Any]) -> Reading:
    """The question is the instruction, and the input in a paragraph of its own."""
    instruction, output = get_text(row, "instruction"), get_text(row, "output")
    context = get_text(row, "input", may_be_empty=True) if "input" in row else ""
    return read_answer(pair(f"{instruction}\n\n{context}" if context.strip() else instruction, output))


FORMAT = Format(
    keys=("instruction", "output"),
    optional_keys=("input",),
    sample={"instruction": "Add.", "input": "2 and 2", "output": "4"},
    read=read,
)
