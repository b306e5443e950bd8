"""A file of rows as a newcomer has it -> what is in it: the shape of the rows, whose column is what, how answers look.

Reads what a recipe's `source` takes, and tables whose columns are separated by tabs or semicolons, because
`whet init` writes the rows anew. Columns may have other names than whet's (`Frage` is not guessed, `Prompt` is); what
was found is said, and a file that cannot be understood is refused with what was seen.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from whet.data.datasets import squad
from whet.data.files import RawRow, check_file, read_rows, read_table
from whet.data.formats import FORMATS, NUM_ROWS_TO_DETECT, check_fields, detect_format
from whet.data.rows import BadRow, RowReader
from whet.errors import DataError
from whet.types import Example

QUESTION_COLUMNS = ("question", "prompt", "instruction", "query", "input", "user", "ask", "problem", "q", "text")
ANSWER_COLUMNS = (
    "answer", "response", "completion", "output", "reply", "assistant", "solution", "target", "a", "label", "category",
)  # fmt: skip
"""Names that are taken for the two columns where no format fits, whatever their case; the first one that is there."""

_TABLE_SUFFIXES = (".csv", ".tsv", ".txt")
_DELIMITERS = {"\t": "tabs", ";": "semicolons", ",": "commas"}
_SAVE_AS = {
    ".xlsx": "save the sheet as CSV (Excel: CSV UTF-8)",
    ".xls": "save the sheet as CSV (Excel: CSV UTF-8)",
    ".ods": "save the sheet as CSV in UTF-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One usable row: as the file has it, and as whet reads it."""

    value: Mapping[str, Any]
    """only the keys that its format reads, by the file's names"""
    example: Example


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLook:
    """The rows of a file. Invariant: len(rows) + len(bad) is the number of rows that were read."""

    name: str
    """the file as the user wrote it"""
    format_name: str
    fields: dict[str, str]
    """key of the format -> column of the file, where their names differ"""
    rows: tuple[Row, ...]
    bad: tuple[BadRow, ...]
    notes: tuple[str, ...]
    """what was found out about the file, as sentences"""


def look_at(
    name: str, *, question: str | None = None, answer: str | None = None, most_rows: int | None = None
) -> FirstLook:
    """Read the file `name`, or its first rows; `question` and `answer` name two columns that whet would not find.

    DataError says what was seen where the file cannot be read or no question and answer are found in it.
    """
    notes: list[str] = []
    raw = tuple(islice(_read(Path(name).expanduser(), name, notes), most_rows))
    if question is None and answer is None:
        fields = _find_fields(raw, name)
        format_name = detect_format(raw[:NUM_ROWS_TO_DETECT], name, fields=fields)
    else:
        fields, format_name = _named_fields(question, answer), "question_answer"
    check_fields(format_name, fields, raw, name)
    _refuse_unasked(format_name, raw, name)
    reader = RowReader(format_name=format_name, fields=fields)
    rows, bad = [], []
    for each in raw:
        example = reader.read(each)
        if isinstance(example, BadRow):
            bad.append(example)
        else:
            rows.append(Row(value=_only_read(each.value, format_name, fields), example=example))
    notes += _describe(raw, name, format_name, fields)
    return FirstLook(
        name=name, format_name=format_name, fields=fields, rows=tuple(rows), bad=tuple(bad), notes=tuple(notes)
    )


def _read(path: Path, name: str, notes: list[str]) -> Iterator[RawRow]:
    suffix = path.suffix.lower()
    if suffix in _SAVE_AS and path.is_file():
        raise DataError(f"rows cannot be read from {suffix}", where=name, mend=_SAVE_AS[suffix])
    if suffix not in _TABLE_SUFFIXES or not path.is_file():
        check_file(path, name)
        for row in read_rows(path, name):
            if squad.is_nested(row.value):
                yield from _questions_of(row.value, name)
            else:
                yield row
        return
    delimiter = _find_delimiter(path)
    if delimiter != ",":
        notes.append(f"{name}: columns are separated by {_DELIMITERS[delimiter]}")
    is_empty = True
    for row in read_table(path, name, delimiter):
        is_empty = False
        yield row
    if is_empty:
        raise DataError("holds no rows", where=name, mend="the first line names the columns, rows follow it")


def _questions_of(document: Any, name: str) -> Iterator[RawRow]:
    for number, (value, fault) in enumerate(squad.flatten(document), start=1):
        yield RawRow(origin=f"{name}:row {number}", value=value, fault=str(fault) if fault else None)


def _find_delimiter(path: Path) -> str:
    """What separates the columns, by the header: commas win wherever there is one outside quotes."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        unquoted = "".join(file.readline(1 << 20).split('"')[::2])
    if "," in unquoted:
        return ","
    return next((sign for sign in ("\t", ";") if sign in unquoted), ",")


def _named_fields(question: str | None, answer: str | None) -> dict[str, str]:
    if question is None or answer is None:
        raise DataError("one column alone was named", where="--question, --answer", mend="name both columns")
    # a key that already has its own name needs no mapping
    return {key: own for key, own in (("question", question), ("answer", answer)) if own != key}


def _find_fields(raw: Sequence[RawRow], name: str) -> dict[str, str]:
    """Which columns are the format's keys; empty where they are called so already."""
    columns = _columns(raw)
    if any(set(shape.keys) <= set(columns) for key, shape in FORMATS.items() if key != "text"):
        return {}
    plain = {column.strip().casefold(): column for column in reversed(columns)}
    for key, shape in FORMATS.items():
        wanted = (*shape.keys, *shape.optional_keys)
        if key != "text" and set(shape.keys) <= set(plain):
            return {each: plain[each] for each in wanted if each in plain and plain[each] != each}
    question, answer = (
        next((plain[each] for each in names if each in plain), None) for names in (QUESTION_COLUMNS, ANSWER_COLUMNS)
    )
    if question is not None and answer is not None:
        return {key: own for key, own in (("question", question), ("answer", answer)) if own != key}
    raise _no_columns(columns, raw, name)


def _columns(raw: Sequence[RawRow]) -> list[str]:
    first = (row.value for row in raw[:NUM_ROWS_TO_DETECT])
    return list(Counter(str(key) for value in first if isinstance(value, dict) for key in value))


def _no_columns(columns: Sequence[str], raw: Sequence[RawRow], name: str) -> DataError:
    found = ", ".join(map(repr, columns[:12])) or "no columns"
    if len(columns) >= 2:
        typed = [shlex.quote(each) for each in (name, *columns[:2])]
        mend = "say which is which, e.g. whet init --data {} --question {} --answer {}".format(*typed)
    else:
        mend = "give each row a question and an answer, under these names or as `messages`"
    faults = [f"    {row.origin}: {row.fault}" for row in raw[:NUM_ROWS_TO_DETECT] if row.fault]
    what = f"no question and answer are found in the first {min(len(raw), NUM_ROWS_TO_DETECT)} rows (columns: {found})"
    return DataError("\n".join([what, *faults]), where=name, mend=mend)


def _refuse_unasked(format_name: str, raw: Sequence[RawRow], name: str) -> None:
    if format_name == "text":
        raise _no_columns(_columns(raw), raw, name)


def _only_read(value: Mapping[str, Any], format_name: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """The row without what its format never looks at."""
    shape = FORMATS[format_name]
    names = [fields.get(key, key) for key in (*shape.keys, *shape.optional_keys)]
    return {key: value[key] for key in names if key in value}


def _describe(raw: Sequence[RawRow], name: str, format_name: str, fields: Mapping[str, str]) -> Iterator[str]:
    mapped = "".join(f", {key} from the column {own!r}" for key, own in fields.items())
    yield f"{name}: {len(raw):,} rows, read as {format_name}{mapped}"
    shape = FORMATS[format_name]
    read = {fields.get(key, key) for key in (*shape.keys, *shape.optional_keys)}
    if unread := [column for column in _columns(raw) if column not in read]:
        yield f"{name}: not used: {', '.join(unread[:12])}"
