"""Which rows of the evaluation sets the training rows have shown already, so that a verdict can leave them aside.

Kept in `evaluations/seen.json` under the fingerprints of both sides: the training rows are read again only when one of
them has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from whet import atomic
from whet.data.overlap import find_seen_rows
from whet.data.pipeline import PreparedData
from whet.data.sources import BadRow, open_source
from whet.evaluation.code_version import overlap_version
from whet.evaluation.questions import Questions
from whet.json_text import read_json
from whet.recipe.schema import Recipe
from whet.types import Example


def seen_rows(
    recipe: Recipe, data: PreparedData, sets: Sequence[Questions], *, folder: Path, base_folder: Path
) -> dict[str, tuple[str, ...]]:
    """Ids by the name of the set. `folder` keeps the result; relative files of the recipe start at `base_folder`.

    DataError or HubError where training rows cannot be read any more.
    """
    path = folder / "seen.json"
    key = {
        "train": data.train.fingerprint,
        "sets": {questions.name: questions.fingerprint() for questions in sets},
        "code": overlap_version(),
    }
    found = _read(path, key)
    if found is None:
        found = find_seen_rows(
            training_examples(recipe, base_folder), {questions.name: questions.examples for questions in sets}
        )
        atomic.write_text(path, json.dumps({"key": key, "seen_in_training": found}, indent=1) + "\n")
    return found


def training_examples(recipe: Recipe, base_folder: Path) -> Iterator[Example]:
    """Every readable row of the training sources, one after the other."""
    for source in recipe.data.train:
        for row in open_source(source, seed=recipe.seed, base_folder=base_folder).read():
            if not isinstance(row, BadRow):
                yield row


def _read(path: Path, key: dict[str, Any]) -> dict[str, tuple[str, ...]] | None:
    try:
        document = read_json(path.read_bytes())
        if document["key"] != key:
            return None
        return {name: tuple(map(str, document["seen_in_training"][name])) for name in key["sets"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
