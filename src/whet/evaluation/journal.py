"""`<base|tuned>.answers.jsonl`: a model's answers in the order of the set, on the disk as soon as a portion is done.

The first line is the key that the answers belong to, then one line per row with its generation and judgement. The
last line of a portion says where it ends: a portion that a crash cut in two is answered again as a whole, so that
every row is computed beside the same other rows as without the crash, and comes out with the same text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from whet import atomic
from whet.errors import StorageError
from whet.evaluation.questions import AnswerKey
from whet.evaluation.store import parse_row, row_document
from whet.types import Generation, Judgement

Answers = list[tuple[Generation, Judgement]]


class Journal:
    """The answers of one model to one set, under `key`."""

    def __init__(self, folder: Path, model: str, key: AnswerKey) -> None:
        self._path = folder / f"{model}.answers.jsonl"
        self._key = key

    def read(self) -> Answers:
        """Whole portions that were written under the same key; none when the file is of another key or damaged."""
        answers: Answers = []
        num_whole = 0
        for line in lines_behind(self._path, self._header()):
            try:
                document = json.loads(line)
                answers.append(parse_row(line.decode("utf-8"), str(self._path), float(document["seconds"])))
                num_whole = len(answers) if document["ends_portion"] else num_whole
            except (ValueError, KeyError, TypeError, RecursionError, StorageError):
                break
        return answers[:num_whole]

    def begin(self, answers: Answers) -> None:
        """Make the file hold exactly `answers`, as one portion."""
        atomic.write_bytes(self._path, self._header() + b"\n" + _lines(answers))

    def append(self, answers: Answers) -> None:
        """Add one portion; it is on the disk when this returns. StorageError when the disk refuses."""
        atomic.append_bytes(self._path, _lines(answers))

    def remove(self) -> None:
        """The answers are in their final file."""
        atomic.remove(self._path)

    def _header(self) -> bytes:
        return json.dumps({"format_version": 1, "key": asdict(self._key)}, sort_keys=True).encode()


def _lines(answers: Sequence[tuple[Generation, Judgement]]) -> bytes:
    documents = [
        row_document(generation, judgement)
        | {"seconds": generation.seconds, "ends_portion": position == len(answers) - 1}
        for position, (generation, judgement) in enumerate(answers)
    ]
    return "".join(json.dumps(document) + "\n" for document in documents).encode()


def lines_behind(path: Path, header: bytes) -> list[bytes]:
    """Whole lines of a file that was begun with the line `header`; none when it was not, or is not there."""
    if not path.is_file():
        return []
    first, *lines = path.read_bytes().split(b"\n")
    # what follows the last line break is empty, or a line that was cut
    return lines[:-1] if first == header else []
