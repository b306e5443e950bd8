"""The rows of a recipe as people read them: JSON lines with question, whole rendered text and answer, one file a set.

The files of the FiQA project (`train_processed.json`, `val_processed.json`, `test_processed.json`), for any recipe.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from whet import cache
from whet.data.sources import BadRow, open_source
from whet.data.templates import Template, render_many
from whet.errors import DataError
from whet.recipe.schema import Recipe, Source
from whet.types import Example

_CHUNK_ROWS = 512


def write_processed(folder: Path, recipe: Recipe, template: Template, *, base_folder: Path) -> dict[Path, int]:
    """One file per set of the recipe in `folder`; returns how many rows each file has.

    Fields: `question` (what the last user turn says), `text` (everything that the model is trained on, template
    included), `answer` (the last assistant turn). Rows that cannot be read or rendered are not in the files; the
    ledger has them. The first main evaluation set is called `test`, the others have their own name.
    """
    sets: dict[str, Sequence[Source]] = {"train": recipe.data.train, "val": recipe.data.validation}
    main = next((entry.name for entry in recipe.evaluate if entry.role == "main"), None)
    sets |= {"test" if entry.name == main else entry.name: (entry.source,) for entry in recipe.evaluate}
    cache.make_folder(folder)
    written = {}
    for name, sources in sets.items():
        if sources:
            path = folder / f"{name}_processed.json"
            written[path] = _write(path, _rows(sources, recipe, template, base_folder))
    return written


def _rows(sources: Sequence[Source], recipe: Recipe, template: Template, base_folder: Path) -> Iterator[dict[str, str]]:
    for source in sources:
        opened = open_source(source, seed=recipe.seed, base_folder=base_folder)
        examples = (row for row in opened.read() if not isinstance(row, BadRow))
        while chunk := list(islice(examples, _CHUNK_ROWS)):
            for example, rendered in zip(chunk, render_many(template, chunk), strict=True):
                if not isinstance(rendered, DataError):
                    yield {
                        "question": _last(example, "user"),
                        "text": rendered.texts[-1].translate({ord(k): v for k, v in rendered.stand_ins.items()}),
                        "answer": _last(example, "assistant"),
                    }


def _last(example: Example, role: str) -> str:
    return next((turn.content for turn in reversed(example.messages) if turn.role == role), "")


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Write the file whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    num_rows = 0
    try:
        with draft.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                num_rows += 1
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return num_rows
