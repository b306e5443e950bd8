"""A local file -> its rows with their line numbers, one after the other; an unreadable row carries the reason instead.

JSON lines, CSV and Parquet are read in bounded memory; a JSON array or object (`.json`) is held as a whole. Nothing is
repaired and nothing is guessed: a torn line, a duplicate key or a NaN is a fault of that row, and the
caller decides what to do with faulty rows (data/rows.py stops by default).
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet import cache
from whet.errors import DataError, RecipeError

_MAX_CSV_FIELD_CHARACTERS = 1 << 30
_MAX_FAULTY_CHARACTERS = 10_000
_UTF8_BOM = b"\xef\xbb\xbf"
_BLANK = " \t\r\n"
_ROWS_PER_BATCH = 512
"""rows of a Parquet file in memory at a time"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """One row as the file has it. Exactly one of `value` and `fault` means something: a faulty row has no value."""

    origin: str
    """`file:line`, or `file:row N` where the format has no lines; both count from 1."""
    value: Any = None
    fault: str | None = None
    text: str = ""
    """of a faulty row: what stands there, cut to 10,000 characters; "" where that cannot be told"""


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


def _json_fault(error: ValueError | RecursionError, text: str) -> str:
    if isinstance(error, json.JSONDecodeError):
        found = repr(text[error.pos : error.pos + 20]) if text[error.pos :].strip() else "the end"
        return f"torn or invalid JSON (found {found} at column {error.colno}, expected JSON: {error.msg})"
    if isinstance(error, RecursionError):
        return "invalid JSON (found values nested too deeply, expected a row)"
    if isinstance(error, _JsonError):
        return str(error)
    return f"invalid JSON (found a number that is too long, expected a row: {error})"


def _read_jsonl(path: Path, label: str) -> Iterator[RawRow]:
    """One JSON value per line; blank lines, CRLF and a byte-order mark are accepted."""
    with path.open("rb") as file:
        for line_number, line in enumerate(file, start=1):
            if line_number == 1:
                line = line.removeprefix(_UTF8_BOM)
            if line.strip():
                yield _read_line(line, f"{label}:{line_number}")


def _read_line(line: bytes, origin: str) -> RawRow:
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        found = f"byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line"
        return _faulty(origin, f"not UTF-8 (found {found}, expected UTF-8 text)", line.decode("utf-8", "replace"))
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError) as error:
        return _faulty(origin, _json_fault(error, text), text)
    if end < len(text):
        found = f"{text[end : end + 20].strip()!r} at column {end + 1}"
        return _faulty(origin, f"torn or invalid JSON (found text after the value: {found}, expected one row)", text)
    return RawRow(origin=origin, value=value)


def _faulty(origin: str, fault: str, text: str) -> RawRow:
    return RawRow(origin=origin, fault=fault, text=text.strip()[:_MAX_FAULTY_CHARACTERS])


def _read_json(path: Path, label: str) -> Iterator[RawRow]:
    """A JSON array of rows, one object (a row, or a whole file in SQuAD's structure), or one object per line."""
    content = path.read_bytes().removeprefix(_UTF8_BOM)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(label, content.count(b"\n", 0, error.start) + 1, error) from error
    del content
    position = _skip(text, 0, _BLANK)
    if text[position : position + 1] == "[":
        yield from _read_array(text, position + 1, label)
        return
    try:
        value, end = _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError) as error:
        if not _has_rows_in_lines(text):
            line_number = getattr(error, "lineno", text.count("\n", 0, position) + 1)
            yield _faulty(f"{label}:{line_number}", _json_fault(error, text), text)
            return
    else:
        if _skip(text, end, _BLANK) == len(text):
            yield RawRow(origin=f"{label}:{text.count(chr(10), 0, position) + 1}", value=value)
            return
    yield from _read_jsonl(path, label)


def _has_rows_in_lines(text: str) -> bool:
    """Whether the first or the second line is a row by itself, so that a fault concerns its line only."""
    lines = [line for line in text[: 1 << 20].split("\n") if line.strip()][:2]
    if len(lines) < 2:
        return True
    return any(_read_line(line.encode("utf-8", "surrogatepass"), "").fault is None for line in lines)


def _read_array(text: str, position: int, label: str) -> Iterator[RawRow]:
    position = _skip(text, position, _BLANK)
    line_number, counted_to = 1, 0
    while text[position : position + 1] != "]":
        line_number += text.count("\n", counted_to, position)
        counted_to = position
        origin = f"{label}:{line_number}"
        start = position
        try:
            value, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            rest = text[start : start + _MAX_FAULTY_CHARACTERS]
            yield _faulty(origin, _json_fault(error, text) + "; the rest of the array cannot be read", rest)
            return
        yield RawRow(origin=origin, value=value)
        position = _skip(text, position, _BLANK)
        separator = text[position : position + 1]
        if separator == ",":
            position = _skip(text, position + 1, _BLANK)
        if separator not in (",", "]") or (separator == "," and text[position : position + 1] == "]"):
            found = repr(text[position : position + 20]) if position < len(text) else "the end"
            yield _faulty(
                origin, f"torn or invalid JSON (found {found} behind this row, expected a row or `]`)", text[start:]
            )
            return


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _not_utf8(label: str, line_number: int, error: UnicodeDecodeError) -> DataError:
    found = f"found byte 0x{error.object[error.start]:02x}, expected UTF-8 text: {error.reason}"
    return DataError(f"not UTF-8 ({found})", where=f"{label}:{line_number}",
                     mend="save the file as UTF-8 (Excel: CSV UTF-8)")  # fmt: skip


def read_table(path: Path, label: str, delimiter: str = ",") -> Iterator[RawRow]:
    """Comma-separated values with a header line; every row needs as many columns as the header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _read_csv_rows(csv.reader(file, strict=True, delimiter=delimiter), label)
    except UnicodeDecodeError:
        # the decoder works in blocks, the line is found by reading again
        with path.open("rb") as lines:
            for line_number, line in enumerate(lines, start=1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise _not_utf8(label, line_number, error) from error
        raise


def _read_csv_rows(reader: Any, label: str) -> Iterator[RawRow]:
    try:
        header = _next_csv_row(reader) or []
    except csv.Error as error:
        raise DataError(f"torn or invalid CSV (found {error}, expected a header)", where=f"{label}:1",
                        mend="write the column names in the first line") from error  # fmt: skip
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"the header names a column twice (found {twice!r}, expected it once)", where=f"{label}:1",
                        mend="give each column its own name")  # fmt: skip
    while True:
        origin = f"{label}:{reader.line_num + 1}"
        try:
            fields = _next_csv_row(reader)
        except csv.Error as error:
            yield RawRow(origin=origin, fault=f"torn or invalid CSV (found {error}, expected a row)")
            return
        if fields is None:
            return
        if len(fields) == len(header):
            yield RawRow(origin=origin, value=dict(zip(header, fields, strict=True)))
        elif fields:
            found = f"wrong number of columns (found {len(fields)}, expected {len(header)} as in the header)"
            yield _faulty(origin, found, json.dumps(fields, ensure_ascii=False))


def _next_csv_row(reader: Any) -> list[str] | None:
    """The next row under whet's own field limit, which the library keeps for the whole process."""
    old_limit = csv.field_size_limit(_MAX_CSV_FIELD_CHARACTERS)
    try:
        return next(reader, None)
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
    row_number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH):
                for value in _read_batch(batch):
                    row_number += 1
                    origin = f"{label}:row {row_number}"
                    if isinstance(value, UnicodeDecodeError):
                        found = f"not UTF-8 (found byte 0x{value.object[value.start]:02x}, expected UTF-8 text)"
                        yield _faulty(origin, found, value.object.decode("utf-8", "replace"))
                    else:
                        yield RawRow(origin=origin, value=value)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
        what = f"not a readable Parquet file (found {error}, expected rows)"
        raise DataError(what, where=f"{label}:row {row_number + 1}", mend="write the file again") from error


def _read_batch(batch: Any) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield error


READERS: dict[str, Callable[[Path, str], Iterator[RawRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": read_table,
    ".parquet": _read_parquet,
}


def check_file(path: Path, label: str) -> None:
    """DataError where a file as a whole cannot be read: missing, a directory, of an unknown kind."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in READERS)
        mend = f"name one file in it, e.g. {inside[0]}" if inside else f"name a file ({', '.join(READERS)})"
        raise DataError("is a directory, not a file of rows", where=label, mend=mend)
    if not path.exists():
        raise DataError("file does not exist", where=label, mend=_nearest_name(path))
    if path.suffix.lower() not in READERS:
        raise DataError(f"rows cannot be read from {path.suffix or 'a file without suffix'}", where=label,
                        mend=f"use one of {', '.join(READERS)}")  # fmt: skip


def read_rows(path: Path, label: str) -> Iterator[RawRow]:
    """The rows of a file in order; `label` is the file's name as the user wrote it, for messages.

    Raises DataError, while reading, where the file as a whole cannot be read or holds no rows.
    """
    check_file(path, label)
    is_empty = True
    try:
        for row in READERS[path.suffix.lower()](path, label):
            is_empty = False
            yield row
    except OSError as error:
        raise _unreadable(label, error) from error
    if is_empty:
        raise DataError("holds no rows", where=label, mend="check that the file was written completely")


def hash_file(path: Path, label: str) -> str:
    """Hex SHA-256 of a file's bytes."""
    try:
        return cache.digest_of(path)
    except OSError as error:
        raise _unreadable(label, error) from error


def _unreadable(label: str, error: OSError) -> DataError:
    return DataError(f"cannot be read ({error.strerror or error})", where=label, mend="check the file's rights")


def _nearest_name(path: Path) -> str:
    folder = path.parent
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    if not folder.is_dir():
        return f"its folder does not exist either: {folder.name}"
    return "check the path; relative ones start where the command is typed"
