"""Tokenized sources put together: one row of samples with unique ids, and the account of every input row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import overload

import numpy as np

from whet.data.row_keys import occurrences
from whet.data.token_cache import CachedTokens
from whet.types import Ledger, LedgerRow, TokenizedSample, TokenizedSet


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
        number = int(np.searchsorted(self._starts, joined, side="right")) - 1
        source = self._sources[number]
        record = source.samples[joined - self._starts[number]]
        tokens = slice(int(record["start"]), int(record["start"]) + int(record["length"]))
        return TokenizedSample(
            id=f"{int(record['content']):016x}-{int(self._numbers[joined])}",
            ids=np.array(source.ids[tokens], dtype=np.int32),
            taught=np.array(source.taught[tokens]),
        )


def join_sources(name: str, sources: Sequence[CachedTokens], *, drops_duplicates: bool) -> TokenizedSet:
    """The set `name` of a recipe from its tokenized sources, in their order.

    A row that says what an earlier row says, in whichever source, is a duplicate: it keeps its place with an id of
    its own, or is left out with `drops_duplicates`.
    """
    content = np.concatenate([np.zeros(0, dtype=np.uint64), *(source.samples["content"] for source in sources)])
    numbers = occurrences(content)
    taken = np.flatnonzero(numbers == 0) if drops_duplicates else np.arange(len(content))
    starts = np.cumsum([0, *(len(source.samples) for source in sources)])
    repeated = np.flatnonzero(numbers)
    rows: list[LedgerRow] = []
    num_dropped = 0
    for source, (start, stop) in zip(sources, pairwise(starts), strict=True):
        here = repeated[(repeated >= start) & (repeated < stop)] - start
        origins = list(source.origins(set(here.tolist())).values())
        own = [row for row in source.ledger() if row.status != "truncated" or row.origin not in set(origins)]
        num_dropped += sum(row.status != "truncated" for row in own)
        rows += own
        rows += [LedgerRow(origin=origin, status="duplicate", reason="says what an earlier row says")
                 for origin in origins]  # fmt: skip
    num_rows = len(content) + num_dropped
    sizes = [int(((taken >= start) & (taken < stop)).sum()) for start, stop in pairwise(starts)]
    fingerprint = json.dumps([[source.fingerprint for source in sources], drops_duplicates])
    lengths = [np.zeros(0, dtype=np.int32), *(source.samples["length"] for source in sources)]
    num_taught = [np.zeros(0, dtype=np.int32), *(source.samples["num_taught"] for source in sources)]
    return TokenizedSet(
        samples=CachedSamples(sources, taken, numbers),
        lengths=np.concatenate(lengths)[taken].astype(np.int32),
        num_taught=np.concatenate(num_taught)[taken].astype(np.int32),
        source_sizes=tuple(sizes),
        ledger=Ledger(
            name=name, num_rows=num_rows, num_kept=num_rows - len(rows), rows=tuple(rows),
            drops_duplicates=drops_duplicates,
        ),
        fingerprint=hashlib.sha256(fingerprint.encode()).hexdigest(),
    )  # fmt: skip
