"""Shapes of rows, most specific first, and which of them a source has."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from whet.data.datasets import dolly, fiqa, gsm8k, metamathqa, squad
from whet.data.files import RawRow
from whet.data.formats import alpaca, messages, prompt_completion, question_answer, sharegpt, text
from whet.data.reading import Format, RowError, name_keys
from whet.errors import DataError, RecipeError

NUM_ROWS_TO_DETECT = 20
_NUM_LISTED_FAULTS = 20

FORMATS: dict[str, Format] = {
    "squad": squad.FORMAT,
    "fiqa": fiqa.FORMAT,
    "metamathqa": metamathqa.FORMAT,
    "messages": messages.FORMAT,
    "sharegpt": sharegpt.FORMAT,
    "prompt_completion": prompt_completion.FORMAT,
    "dolly": dolly.FORMAT,
    "alpaca": alpaca.FORMAT,
    "gsm8k": gsm8k.FORMAT,
    "question_answer": question_answer.FORMAT,
    "text": text.FORMAT,
}


def detect_format(rows: Sequence[RawRow], where: str, *, fields: Mapping[str, str] | None = None) -> str:
    """The most specific format that more than half of the first rows look like, else the one that most look like.

    `fields` maps a format's keys to the rows'. DataError with the accepted shapes if no row looks like any.
    """
    first = [row.value for row in rows[:NUM_ROWS_TO_DETECT] if isinstance(row.value, dict)]
    mapped = dict(fields or {})
    counts = {
        name: sum(shape.fits(_rename(row, mapped)) for row in first)
        for name, shape in FORMATS.items()
        if mapped.keys() <= {*shape.keys, *shape.optional_keys}
    }
    if not counts:
        raise _unknown_fields(mapped, {key for shape in FORMATS.values() for key in _all_keys(shape)}, "any format")
    for name, count in counts.items():
        if 2 * count > len(first):
            return name
    best = max(counts, key=lambda name: counts[name])
    if counts[best]:
        return best
    raise _no_format(rows, first, where)


def _no_format(rows: Sequence[RawRow], first: Sequence[dict[str, Any]], where: str) -> DataError:
    keys = Counter(key for row in first for key in row)
    found = ", ".join(repr(key) for key, _ in keys.most_common(12)) or "no JSON object at all"
    shapes = "\n".join(f"    {name}: {json.dumps(shape.sample)}" for name, shape in FORMATS.items())
    what = f"the rows fit none of the accepted shapes (keys found: {found})"
    faults = [f"    {row.origin}: {row.fault}" for row in rows if row.fault][:_NUM_LISTED_FAULTS]
    if faults:
        what += "\n" + "\n".join(faults)
    mend = f"map the keys with `fields`, e.g. {{question: ask, answer: reply}}, or write each row as one of\n{shapes}"
    return DataError(what, where=where, mend=mend)


def check_fields(format_name: str, fields: Mapping[str, str], rows: Sequence[RawRow], where: str) -> None:
    """RecipeError where `fields` maps a key that the format does not read, DataError where no row has its key."""
    shape = FORMATS[format_name]
    if not fields.keys() <= _all_keys(shape):
        raise _unknown_fields(fields, _all_keys(shape), format_name)
    first = [row.value for row in rows[:NUM_ROWS_TO_DETECT] if isinstance(row.value, dict)]
    for key, own in fields.items():
        if first and not any(own in row for row in first):
            keys = ", ".join(repr(each) for each, _ in Counter(k for row in first for k in row).most_common(12))
            raise DataError(
                f"none of the first {len(first)} rows has the key {own!r} that `fields` gives for {key!r} "
                f"(found keys {keys or 'none'}, expected {own!r})",
                where=where,
                mend="correct `fields` of this source",
            )


def _all_keys(shape: Format) -> set[str]:
    return {*shape.keys, *shape.optional_keys}


def _unknown_fields(fields: Mapping[str, str], known: set[str], name: str) -> RecipeError:
    unknown = ", ".join(repr(key) for key in fields if key not in known) or ", ".join(map(repr, fields))
    return RecipeError(
        f"`fields` maps {unknown}, which {name} does not read together",
        where="fields",
        mend=f"its keys are {', '.join(sorted(known))}",
    )


def read_fields(row: dict[str, Any], format_name: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """The row with the format's keys; RowError where a key that the format needs is not there under its own name."""
    for key, own in fields.items():
        if own not in row and key in FORMATS[format_name].keys:
            found = f"keys {name_keys(row)}"
            raise RowError("missing key", field=own, found=found, expected=f"what `fields` maps to {key!r}")
    return _rename(row, fields)


def _rename(row: dict[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    if not fields:
        return row
    # a key of the format that the recipe looks for elsewhere must not be found under its usual name
    rest = {key: value for key, value in row.items() if key not in fields}
    return rest | {key: row[own] for key, own in fields.items() if own in row}
