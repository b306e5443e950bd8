"""Datasets that other tools call by short names, and which held-out rows belong to which training rows."""

from __future__ import annotations

from whet.recipe.importers.sheet import Sheet

_FULL: dict[str, tuple[str, str | None]] = {
    "gsm8k": ("openai/gsm8k", "main"),
    "openai/gsm8k": ("openai/gsm8k", "main"),
    "squad": ("rajpurkar/squad", None),
    "rajpurkar/squad": ("rajpurkar/squad", None),
    "explodinggradients/fiqa": ("explodinggradients/fiqa", "main"),
}
"""Name -> (hub id, configuration that the dataset needs)."""

_MATH = ("openai/gsm8k", "meta-math/MetaMathQA")
MATH_NEW_TOKENS = 512


def hub_name(name: str) -> str:
    """The id that the hub knows today."""
    return _FULL.get(name, (name, None))[0]


def hub_config(name: str) -> str | None:
    """The configuration that a dataset cannot be read without."""
    return _FULL.get(name, (name, None))[1]


def evaluate_math(sheet: Sheet, source: str, tool: str) -> None:
    """Questions of GSM8K's test split to be answered by base and tuned, for rows of GSM8K and MetaMathQA."""
    if source not in _MATH:
        return
    sheet.put("evaluate.0.name", "gsm8k")
    sheet.put("evaluate.0.source", {"source": "openai/gsm8k", "config": "main", "split": "test"})
    sheet.put("evaluate.0.max_new_tokens", MATH_NEW_TOKENS)
    sheet.notes.append(
        f"evaluate: GSM8K's test split, answered by generation; the answer_accuracy of {tool} is read off the gold "
        "text and says nothing about solving problems"
        if tool == "lora-ns"
        else "evaluate: GSM8K's test split, answered by base and tuned"
    )
