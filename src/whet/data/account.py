"""The account of a set's rows: sentences about it, and the two refusals that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np

from whet.data.row_keys import find_equal
from whet.data.rows import list_first
from whet.data.sources import OpenedSource
from whet.data.token_cache import CachedTokens
from whet.errors import DataError
from whet.recipe.checks import dropped_limit
from whet.recipe.schema import Data
from whet.types import Ledger, RowStatus, TokenizedSet

_NUM_PAIRS_LISTED = 5


def describe_source(source: OpenedSource, tokens: CachedTokens) -> str:
    """What a source is and where its tokens come from."""
    commit = f", commit {source.commit[:12]}" if source.commit else ""
    origin = "tokens from the cache" if tokens.was_cached else "tokenized now"
    return f"{source.name}: {tokens.facts['num_rows']:,} rows, read as {source.found_format}{commit}; {origin}"


def describe_set(tokens: TokenizedSet) -> str:
    """Samples, tokens, taught tokens and the account of the rows."""
    num_tokens, num_taught = int(tokens.lengths.sum(dtype=np.int64)), int(tokens.num_taught.sum(dtype=np.int64))
    return (
        f"{tokens.ledger.name}: {len(tokens.samples):,} samples, {num_tokens:,} tokens, {num_taught:,} of them taught; "
        f"{describe_ledger(tokens.ledger)}"
    )


def describe_ledger(ledger: Ledger) -> str:
    """Every row in one sentence: `7,473 rows = 7,470 kept + 3 too long (e.g. rows.jsonl:12: ...)`."""
    parts = [f"{ledger.num_kept:,} kept"]
    for status in reversed(get_args(RowStatus)):
        if num := ledger.count(status):
            first = next(row for row in ledger.rows if row.status == status)
            fate = " (dropped)" if status == "duplicate" and ledger.drops_duplicates else ""
            fate = " (used all the same)" if status == "duplicate" and not fate else fate
            parts.append(f"{num:,} {status}{fate}, first {first.origin}: {first.reason}")
    return f"{ledger.num_rows:,} rows = " + " + ".join(parts)


def refuse_lost_rows(ledger: Ledger, data: Data) -> None:
    """DataError where more rows were dropped than the recipe allows, or any at all with `over_length: error`."""
    lost = [row for row in ledger.rows if row.status in ("bad", "too long")]
    too_long = [row for row in lost if row.status == "too long"]
    limit = dropped_limit(data.max_dropped, ledger.num_rows)
    assert limit is not None  # the recipe's checks have seen it
    if data.over_length == "error" and too_long:
        what, lost = f"{len(too_long)} of {ledger.num_rows} rows are too long", too_long
    elif len(lost) > limit:
        what = (
            f"{len(lost)} of {ledger.num_rows} rows ({len(lost) / ledger.num_rows:.1%}) would be dropped, "
            f"data.max_dropped is {data.max_dropped}"
        )
    elif ledger.num_samples == 0:
        what, lost = f"none of {ledger.num_rows} rows is left", list(ledger.rows)
    else:
        return
    cut = "" if data.over_length == "truncate_prompt" else "cut prompts with data.over_length=truncate_prompt, "
    mend = f"raise data.max_length, {cut}or allow it with data.max_dropped"
    raise DataError("\n".join([what, *list_first(lost)]), where=ledger.name, mend=mend)


def find_shared_rows(
    train: Sequence[CachedTokens], questions: Sequence[int], parameters: Sequence[int]
) -> dict[int, str]:
    """Held-out rows that ask what a training row asks, or are made from the same: position -> which row, and how.

    White space, case, Unicode forms and the recipe's own instruction do not make a difference.
    """
    shared: dict[int, str] = {}
    for source in train:
        by_question = find_equal(questions, source.samples["question"])
        by_parameters = find_equal(parameters, source.samples["parameters"])
        found = by_parameters | by_question
        there = source.origins(set(found.values()))
        for row, sample in found.items():
            shared.setdefault(row, f"{there[sample]} (same {'question' if row in by_question else 'parameters'})")
    return shared


def refuse_shared_rows(name: str, shared: Mapping[int, str], origins: Mapping[int, str], num_rows: int) -> None:
    """DataError naming the first rows of the set `name` that are training rows too, if there are any."""
    if not shared:
        return
    lines = [f"{len(shared)} of {num_rows} rows are also training rows, so a score would mean nothing"]
    lines += [f"    {origins[row]} = {shared[row]}" for row in sorted(shared)[:_NUM_PAIRS_LISTED]]
    mend = (
        "use another split, slices that do not meet such as train[:900] and train[900:], or leave these held-out rows "
        "out with data.shared_rows=drop"
    )
    raise DataError("\n".join(lines), where=name, mend=mend)
