"""Predictions as NeMo's scripts write them, and the line of figures that its script makes of them.

A row is the input row with `output` renamed `label`, and `prediction`; SQuAD's other accepted answers stand in
`original_answers`, as in its rows. `peft_metric_calc.py` (NeMo, scripts/metric_calculation) reads them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whet import atomic
from whet.errors import RecipeError
from whet.evaluation.metrics import exact_match, rouge, token_f1
from whet.types import EvalReport, Example


def nemo_rows(examples: Sequence[Example], report: EvalReport) -> list[dict[str, Any]]:
    """One row for each that `report` answered, in its order."""
    return [_row(example, generation.text) for example, generation in zip(examples, report.generations, strict=True)]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One JSON line per row."""
    atomic.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def metric_line(rows: Sequence[dict[str, Any]]) -> str:
    """`exact_match 50.000 f1 61.234 rougeL 60.000 total 2.000` with tabs, as NeMo's script prints it: means over rows
    of the best over golds, times 100. Without rouge-score rougeL is a sentence that says so."""
    texts = [row["prediction"] for row in rows]
    golds = [tuple(row.get("original_answers", [row["label"]])) for row in rows]
    pairs = list(zip(texts, golds, strict=True))
    figures = {
        "exact_match": [exact_match.score(*pair) for pair in pairs],
        "f1": [token_f1.score(*pair) for pair in pairs],
    }
    parts = [f"{name} {_percent(scores):.3f}" for name, scores in figures.items()]
    try:
        parts.append(f"rougeL {_percent([rouge.score(*pair, kind='rougeL') for pair in pairs]):.3f}")
    except RecipeError as error:
        parts.append(f"rougeL unknown ({error.mend})")
    return "\t".join([*parts, f"total {len(rows):.3f}"])


def _percent(scores: Sequence[float]) -> float:
    return 100 * sum(scores) / max(1, len(scores))


def _row(example: Example, prediction: str) -> dict[str, Any]:
    *prompt, answer = example.messages
    row: dict[str, Any] = {
        "input": "\n".join(message.content for message in prompt if message.role == "user"),
        "label": answer.content,
        "prediction": prediction,
    }
    return row | ({"original_answers": list(example.golds)} if len(example.golds) > 1 else {})
