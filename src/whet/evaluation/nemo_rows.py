"""Predictions as NeMo's scripts write them: the input row with `output` renamed `label`, and `prediction`.

NeMo's `peft_metric_calc.py` reads them; SQuAD's other accepted answers stand in `original_answers`, as in its rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from whet import atomic
from whet.types import EvalReport, Example


def write_nemo_rows(path: Path, examples: Sequence[Example], report: EvalReport) -> None:
    """One JSON line per row that `report` answered, in its order."""
    rows = [_row(example, generation.text) for example, generation in zip(examples, report.generations, strict=True)]
    atomic.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _row(example: Example, prediction: str) -> dict[str, object]:
    *prompt, answer = example.messages
    row: dict[str, object] = {
        "input": "\n".join(message.content for message in prompt if message.role == "user"),
        "label": answer.content,
        "prediction": prediction,
    }
    return row | ({"original_answers": list(example.golds)} if len(example.golds) > 1 else {})
