"""Tokenized sources put together: one row of samples with unique ids, and the account of every input row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import overload

import numpy as np

from whet.data.row_keys import occurrences
from whet.data.token_cache import CachedTokens
from whet.types import Ledger, LedgerRow, RowStatus, TokenizedSample, TokenizedSet

REPEATED = "says what an earlier row says"


class CachedSamples(Sequence[TokenizedSample]):
    """Samples of several cached sources, read one by one; what is not asked for is not in memory."""

    def __init__(self, sources: Sequence[CachedTokens], taken: np.ndarray, numbers: np.ndarray) -> None:
        """`taken`: int64, positions in the joined sources; `numbers`: occurrence of each joined row's content."""
        self._sources = tuple(sources)
        self._starts = np.cumsum([0, *(len(source.samples) for source in sources)])
        self._taken = taken
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._taken)

    @overload
    def __getitem__(self, index: int) -> TokenizedSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenizedSample]: ...
    def __getitem__(self, index: int | slice) -> TokenizedSample | list[TokenizedSample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        joined = int(self._taken[index])
        source, record = self._find(joined)
        tokens = slice(int(record["start"]), int(record["start"]) + int(record["length"]))
        return TokenizedSample(
            id=self._id(joined, record),
            ids=np.array(source.ids[tokens], dtype=np.int32),
            taught=np.array(source.taught[tokens]),
        )

    def id_of(self, index: int) -> str:
        """The id of a sample, without reading its tokens."""
        joined = int(self._taken[index])
        return self._id(joined, self._find(joined)[1])

    def _find(self, joined: int) -> tuple[CachedTokens, np.void]:
        """Source and record of a position in the joined sources."""
        number = int(np.searchsorted(self._starts, joined, side="right")) - 1
        source = self._sources[number]
        record: np.void = source.samples[joined - self._starts[number]]
        return source, record

    def _id(self, joined: int, record: np.void) -> str:
        return f"{int(record['content']):016x}-{int(self._numbers[joined])}"


def join_sources(
    name: str,
    sources: Sequence[CachedTokens],
    *,
    drops_duplicates: bool = False,
    shared: Mapping[int, str] | None = None,
) -> TokenizedSet:
    """The set `name` of a recipe from its tokenized sources, in their order.

    A row that says what an earlier row says, in whichever source, is a duplicate: it keeps its place with an id of
    its own, or is left out with `drops_duplicates`. `shared` names rows to leave out: position in the joined sources ->
    why.
    """
    content = np.concatenate([np.zeros(0, dtype=np.uint64), *(source.samples["content"] for source in sources)])
    numbers = occurrences(content)
    is_taken = numbers == 0 if drops_duplicates else np.ones(len(content), dtype=bool)
    is_taken[list(shared or {})] = False
    taken = np.flatnonzero(is_taken)
    marks: dict[int, tuple[RowStatus, str]] = {
        int(position): ("duplicate", REPEATED) for position in np.flatnonzero(numbers)
    }
    marks |= {position: ("shared", why) for position, why in (shared or {}).items()}
    borders = list(pairwise(np.cumsum([0, *(len(source.samples) for source in sources)]).tolist()))
    rows = [
        row
        for source, (start, stop) in zip(sources, borders, strict=True)
        for row in _ledger_rows(source, {p - start: mark for p, mark in marks.items() if start <= p < stop})
    ]
    num_rows = sum(source.facts["num_rows"] for source in sources)
    fingerprint = json.dumps([[source.fingerprint for source in sources], drops_duplicates, sorted(shared or {})])
    return TokenizedSet(
        samples=CachedSamples(sources, taken, numbers),
        lengths=_column(sources, "length")[taken],
        num_taught=_column(sources, "num_taught")[taken],
        source_sizes=tuple(int(is_taken[start:stop].sum()) for start, stop in borders),
        ledger=Ledger(
            name=name, num_rows=num_rows, num_kept=num_rows - len(rows), rows=tuple(rows),
            drops_duplicates=drops_duplicates,
        ),
        fingerprint=hashlib.sha256(fingerprint.encode()).hexdigest(),
    )  # fmt: skip


def _ledger_rows(source: CachedTokens, marks: Mapping[int, tuple[RowStatus, str]]) -> list[LedgerRow]:
    """The source's own notes, then its samples with a mark; a marked sample counts as that, even if it was cut too."""
    origins = source.origins(set(marks))
    marked = [
        LedgerRow(origin=origins[position], status=status, reason=reason)
        for position, (status, reason) in sorted(marks.items())
    ]
    again = set(origins.values())
    return [row for row in source.ledger() if row.status != "truncated" or row.origin not in again] + marked


def _column(sources: Sequence[CachedTokens], name: str) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int32), *(source.samples[name] for source in sources)]).astype(np.int32)
