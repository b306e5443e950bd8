"""Datasets that other tools call by short names, and which held-out rows belong to which training rows."""

from __future__ import annotations

from whet.recipe.importers.sheet import Sheet
from whet.recipe.schema import Source
from whet.recipe.splits import source_kind

_FULL_NAMES = {"gsm8k": "openai/gsm8k", "squad": "rajpurkar/squad"}
_CONFIGS = {"openai/gsm8k": "main", "explodinggradients/fiqa": "main"}
"""Hub id -> configuration that whet takes anyway; left out, so that a local file can take the source's place."""

_REPEATS_QUESTIONS = ("meta-math/MetaMathQA", "databricks/databricks-dolly-15k", "explodinggradients/fiqa")
"""Datasets that ask some questions several times, so that cutting rows off does not yet hold them out."""

_MATH = ("openai/gsm8k", "meta-math/MetaMathQA")
MATH_NEW_TOKENS = 512


def hub_name(name: str) -> str:
    """The id that the hub knows today."""
    return _FULL_NAMES.get(name, name)


def map_config(sheet: Sheet, key: str, name: str, whet_key: str) -> str | None:
    """The configuration of hub dataset `name`, if there is one to be written."""
    config = sheet.text(key)
    if not config:
        sheet.drop(key, "it is empty")
        return None
    if config == _CONFIGS.get(name):
        sheet.drop(key, "the configuration that is read anyway")
        return None
    if source_kind(Source(source=name)) != "hub":
        sheet.refuse(key, "only datasets on the hub have configurations")
        return None
    sheet.map(key, whet_key, config)
    return config


def leave_out_shared(sheet: Sheet, source: str) -> None:
    """Of a dataset that repeats questions, held-out rows that ask what a training row asks are left out."""
    if source in _REPEATS_QUESTIONS:
        sheet.put("data.shared_rows", "drop")
        sheet.notes.append(
            f"data.shared_rows = drop: {source} asks some questions several times; a held-out row that asks what a "
            "training row asks is left out, counted and named"
        )


def evaluate_math(sheet: Sheet, source: str, tool: str) -> None:
    """Questions of GSM8K's test split to be answered by base and tuned, for rows of GSM8K and MetaMathQA."""
    if source not in _MATH:
        return
    sheet.put("evaluate.0.name", "gsm8k")
    sheet.put("evaluate.0.source", {"source": "openai/gsm8k", "split": "test"})
    sheet.put("evaluate.0.max_new_tokens", MATH_NEW_TOKENS)
    sheet.notes.append(
        f"evaluate: GSM8K's test split, answered by generation; the answer_accuracy of {tool} is read off the gold "
        "text and says nothing about solving problems"
        if tool == "lora-ns"
        else "evaluate: GSM8K's test split, answered by base and tuned"
    )
