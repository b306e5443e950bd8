"""How likely one model finds the gold answers of one set: measured once, kept beside its answers.

`<base|tuned>.likelihoods.jsonl`: the key that they belong to, then `[nll, tokens, correct tokens]` per row (null for a
row without one), in the order of the set. Rows are measured in blocks that begin at the same places whatever was asked
for before, and a block that a crash cut is measured again as a whole: so every row's numbers come out to the last bit
as without the crash. A base's are shared with other runs like its answers (answer_cache.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from whet import atomic
from whet.errors import NonFiniteError
from whet.evaluation import answer_cache
from whet.evaluation.code_version import likelihood_version
from whet.evaluation.journal import lines_behind
from whet.evaluation.likelihood import GoldLikelihood
from whet.evaluation.questions import AnswerKey
from whet.types import Example

BLOCK_ROWS = 16
Measure = Callable[[Sequence[Example]], Sequence[GoldLikelihood | None]]


class GoldAnswers:
    """The likelihoods of `examples` under one model. `key`: that of its answers."""

    def __init__(
        self, folder: Path, model: str, key: AnswerKey, examples: Sequence[Example], measure: Measure, *, fresh: bool
    ) -> None:
        self._path = folder / f"{model}.likelihoods.jsonl"
        self._key = replace(key, decoding="gold answers, teacher-forced", code=likelihood_version())
        self._examples, self._measure, self._is_shared = examples, measure, model == "base"
        found = [] if fresh else self._whole_blocks(self._read())
        if self._is_shared and not fresh and len(found) < len(examples):
            found = max(found, self._whole_blocks(answer_cache.find_rows(self._key)), key=len)
        self._rows = found
        content = self._header() + _lines(found)
        if not self._path.is_file() or self._path.read_bytes() != content:
            atomic.write_bytes(self._path, content)

    def reach(self, num_rows: int) -> list[GoldLikelihood | None]:
        """Those of the first `num_rows` rows, measured now where they are not known; on the disk before it returns.

        NonFiniteError names a row whose likelihood is no number; StorageError when the disk refuses.
        """
        while len(self._rows) < num_rows:
            start = len(self._rows)
            examples = self._examples[start : start + BLOCK_ROWS]
            measured = [_to_row(e, found) for e, found in zip(examples, self._measure(examples), strict=True)]
            atomic.append_bytes(self._path, _lines(measured))
            self._rows += measured
        return [None if row is None else _to_likelihood(row) for row in self._rows[:num_rows]]

    def share(self) -> None:
        """Let other runs of the same base use them; StorageError when the cache folder refuses."""
        if self._is_shared:
            answer_cache.keep_rows(self._key, self._rows)

    def _read(self) -> list[Any]:
        rows: list[Any] = []
        for line in lines_behind(self._path, self._header().rstrip()):
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                break
        return rows

    def _whole_blocks(self, rows: list[Any]) -> list[Any]:
        """Rows up to the first damaged one, without a block that was begun and not finished."""
        good = next((i for i, row in enumerate(rows) if not _is_row(row)), len(rows))
        return rows[: good if good >= len(self._examples) else good - good % BLOCK_ROWS][: len(self._examples)]

    def _header(self) -> bytes:
        return json.dumps({"format_version": 1, "key": asdict(self._key)}, sort_keys=True).encode() + b"\n"


def _lines(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _to_row(example: Example, found: GoldLikelihood | None) -> list[float] | None:
    if found is None:
        return None
    if not math.isfinite(found.nll):
        raise NonFiniteError(
            f"the likelihood of the gold answer is {found.nll}",
            where=example.origin,
            mend="the model computes no numbers here: check its weights, or set model.dtype: float32",
        )
    return [found.nll, found.num_tokens, found.num_correct]


def _to_likelihood(row: list[Any]) -> GoldLikelihood:
    return GoldLikelihood(nll=float(row[0]), num_tokens=int(row[1]), num_correct=int(row[2]))


def _is_row(row: Any) -> bool:
    if row is None:
        return True
    if not isinstance(row, list) or [type(value) for value in row] != [float, int, int]:
        return False
    return math.isfinite(row[0]) and row[1] > 0
