"""A local file -> its rows with their line numbers; a row that cannot be read carries the reason instead.

Nothing is repaired and nothing is guessed: a torn line, a duplicate key or a NaN is a fault of that row, and the
caller decides what to do with faulty rows (data/rows.py stops by default).
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import DataError, RecipeError

_MAX_CSV_FIELD_CHARACTERS = 1 << 30
_UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """One row as the file has it. Exactly one of `value` and `fault` means something: a faulty row has no value."""

    origin: str
    """`file:line`, or `file:row N` where the format has no lines; both count from 1."""
    value: Any = None
    fault: str | None = None


class _JsonError(ValueError):
    """JSON that Python's parser would accept but whose meaning is unclear."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _JsonError(f"duplicate key (field {twice!r}, found {keys.count(twice)} times, expected once)")
    return row


def _no_constant(name: str) -> Any:
    raise _JsonError(f"not a JSON value (found {name}, expected a finite number, text or null)")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def _json_fault(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"torn or invalid JSON ({error.msg} at column {error.colno})"
    if isinstance(error, RecursionError):
        return "invalid JSON (nested too deeply)"
    return str(error)


def _read_jsonl(path: Path, label: str) -> Iterator[RawRow]:
    """One JSON value per line; blank lines, CRLF and a byte-order mark are accepted."""
    with path.open("rb") as file:
        for line_number, line in enumerate(file, start=1):
            origin = f"{label}:{line_number}"
            if line_number == 1:
                line = line.removeprefix(_UTF8_BOM)
            if not line.strip():
                continue
            try:
                text = line.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                yield RawRow(origin=origin, fault=f"not UTF-8 (byte {error.start + 1} of the line: {error.reason})")
                continue
            try:
                value, end = _DECODER.raw_decode(text)
            except (ValueError, RecursionError) as error:
                yield RawRow(origin=origin, fault=_json_fault(error))
                continue
            if end < len(text):
                yield RawRow(origin=origin, fault=f"torn or invalid JSON (text after the value at column {end + 1})")
            else:
                yield RawRow(origin=origin, value=value)


def _decode(path: Path, label: str) -> str:
    content = path.read_bytes().removeprefix(_UTF8_BOM)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line_number = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"not UTF-8 ({error.reason})", where=f"{label}:{line_number}", mend="save the file as UTF-8"
        ) from error


def _read_json(path: Path, label: str) -> Iterator[RawRow]:
    """A JSON array of rows; a `.json` file that holds one object per line is read as JSON lines."""
    text = _decode(path, label)
    position = _skip(text, 0, " \t\r\n")
    if text[position : position + 1] != "[":
        yield from _read_jsonl(path, label)
        return
    position = _skip(text, position + 1, " \t\r\n")
    line_number, counted_to = 1, 0
    while text[position : position + 1] != "]":
        line_number += text.count("\n", counted_to, position)
        counted_to = position
        origin = f"{label}:{line_number}"
        try:
            value, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            yield RawRow(origin=origin, fault=_json_fault(error) + "; the rest of the array cannot be read")
            return
        yield RawRow(origin=origin, value=value)
        position = _skip(text, position, " \t\r\n")
        separator = text[position : position + 1]
        if separator == ",":
            position = _skip(text, position + 1, " \t\r\n")
        if separator not in (",", "]") or (separator == "," and text[position : position + 1] == "]"):
            yield RawRow(origin=origin, fault="torn or invalid JSON (no row or end of the array follows this row)")
            return


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _read_csv(path: Path, label: str) -> Iterator[RawRow]:
    """Comma-separated values with a header line; every row needs as many columns as the header."""
    text = _decode(path, label)
    old_limit = csv.field_size_limit(_MAX_CSV_FIELD_CHARACTERS)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise DataError("the header names a column twice", where=f"{label}:1", mend="give each column its own name")
        line_number = reader.line_num + 1
        while True:
            origin = f"{label}:{line_number}"
            try:
                fields = next(reader, None)
            except csv.Error as error:
                yield RawRow(origin=origin, fault=f"torn or invalid CSV ({error})")
                return
            if fields is None:
                return
            line_number = reader.line_num + 1
            if not fields:
                continue
            if len(fields) == len(header):
                yield RawRow(origin=origin, value=dict(zip(header, fields, strict=True)))
            else:
                found = f"wrong number of columns (found {len(fields)}, expected {len(header)} as in the header)"
                yield RawRow(origin=origin, fault=found)
    finally:
        csv.field_size_limit(old_limit)


def _read_parquet(path: Path, label: str) -> Iterator[RawRow]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise RecipeError(
            "Parquet files need pyarrow, which is not installed", where=label, mend="pip install 'whet[data]'"
        ) from error
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise DataError(f"not a readable Parquet file ({error})", where=label, mend="write the file again") from error
    for row_number, value in enumerate(rows, start=1):
        yield RawRow(origin=f"{label}:row {row_number}", value=value)


READERS: dict[str, Callable[[Path, str], Iterator[RawRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def read_rows(path: Path, label: str) -> list[RawRow]:
    """All rows of a file in order; `label` is the file's name as the user wrote it, for messages.

    Raises DataError where the file as a whole cannot be read: missing, a directory, empty, of an unknown kind.
    """
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in READERS)
        mend = f"name one file in it, e.g. {inside[0]}" if inside else f"name a file ({', '.join(READERS)})"
        raise DataError("is a directory, not a file of rows", where=label, mend=mend)
    if not path.exists():
        raise DataError("file does not exist", where=label, mend=_nearest_name(path))
    if path.suffix not in READERS:
        raise DataError(f"rows cannot be read from {path.suffix or 'a file without suffix'}", where=label,
                        mend=f"use one of {', '.join(READERS)}")  # fmt: skip
    try:
        rows = list(READERS[path.suffix](path, label))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=label, mend="check the file's rights") from error
    if not rows:
        raise DataError("holds no rows", where=label, mend="check that the file was written completely")
    return rows


def _nearest_name(path: Path) -> str:
    folder = path.parent
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    if not folder.is_dir():
        return f"its folder does not exist either: {folder.name}"
    return "check the path; relative paths start at the folder given with the recipe"
