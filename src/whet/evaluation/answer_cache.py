"""Answers of base models, shared by all runs of a user: `$WHET_CACHE/answers/<key>.jsonl`, at most 256 MB of them.

A thousand answers of 160 tokens take about 1 MB. Only what a model wrote is kept, judged anew when it is used, and,
under keys of their own, how likely it finds the gold answers. Files are replaced whole and carry their own SHA-256, so
readers need no lock; writers take turns.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whet import atomic, cache
from whet.errors import StorageError
from whet.evaluation.questions import AnswerKey
from whet.types import Generation

MAX_BYTES = 256 * 2**20


def find_answers(key: AnswerKey) -> list[Generation]:
    """What is kept under `key`, for the first rows of its set, without prompts; empty when there is nothing usable."""
    try:
        return [Generation(prompt="", **row) for row in find_rows(key)]
    except TypeError:
        return []


def keep_answers(key: AnswerKey, generations: Sequence[Generation]) -> None:
    """Keep the answers to the first rows, unless as many are kept already; StorageError when the folder refuses."""
    keep_rows(key, [_document(generation) for generation in generations])


def find_rows(key: AnswerKey) -> list[Any]:
    """The JSON values that are kept under `key`; empty when there is nothing usable."""
    path = _path(key)
    try:
        first, _, body = path.read_bytes().partition(b"\n")
        if json.loads(first) != _header(key, body):
            return []
        rows = [json.loads(line) for line in body.decode("utf-8").split("\n")[:-1]]
        os.utime(path)  # when it was last used decides what is removed first
    except (OSError, ValueError, RecursionError):
        return []
    return rows


def keep_rows(key: AnswerKey, rows: Sequence[Any]) -> None:
    """Keep JSON values, one a row, unless as many are kept already; StorageError when the folder refuses."""
    folder = _path(key).parent
    with cache.one_writer(folder / "answers.lock"):
        if len(find_rows(key)) >= len(rows):
            return
        body = "".join(json.dumps(row) + "\n" for row in rows).encode()
        content = json.dumps(_header(key, body)).encode() + b"\n" + body
        if len(content) <= MAX_BYTES:
            _make_room(folder, len(content))
            atomic.write_bytes(_path(key), content)


def _path(key: AnswerKey) -> Path:
    return cache.cache_folder() / "answers" / f"{key.digest}.jsonl"


def _header(key: AnswerKey, body: bytes) -> dict[str, Any]:
    return {"format_version": 1, "key": asdict(key), "sha256": hashlib.sha256(body).hexdigest()}


def _document(generation: Generation) -> dict[str, Any]:
    document = asdict(generation)
    del document["prompt"]
    return document


def _make_room(folder: Path, num_bytes: int) -> None:
    """Remove what was not used for longest until `num_bytes` more fit."""
    files = sorted(((path, path.stat()) for path in folder.glob("*.jsonl")), key=lambda pair: pair[1].st_mtime_ns)
    total = sum(status.st_size for _, status in files)
    for path, status in files:
        if total + num_bytes <= MAX_BYTES:
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"could not be removed: {error.strerror}", where=str(path), mend="remove it yourself"
            ) from error
        total -= status.st_size
