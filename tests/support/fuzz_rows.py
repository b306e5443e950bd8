"""Targets of the fuzzer: files of rows, from bytes to examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fuzz_targets import Parser

from whet.data import row_keys
from whet.data.files import RawRow, read_rows
from whet.data.formats import FORMATS
from whet.data.rows import BadRow, RowReader
from whet.data.sources import open_source
from whet.errors import WhetError
from whet.recipe.schema import Source
from whet.types import Example

_READERS = [
    RowReader(format_name=name, system="Be short.", instruction="Answer.") for name in FORMATS if name != "text"
]
_MAX_ROWS_IN_EVERY_FORMAT = 4


def _rows(suffix: str, scratch: Path) -> Parser:
    path = scratch / f"rows{suffix}"
    source = Source(source=path.name)

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        try:
            opened = open_source(source, seed=0, base_folder=scratch)
            for number, row in enumerate(opened.read()):
                _use(row)
                if number > 1000:
                    break
        except WhetError:
            pass
        for number, raw in enumerate(read_rows(path, path.name)):
            if number >= _MAX_ROWS_IN_EVERY_FORMAT:
                break
            _in_every_format(raw)

    return parse


def _in_every_format(raw: RawRow) -> None:
    for reader in _READERS:
        _use(reader.read(raw))


def _use(row: Example | BadRow) -> None:
    """What follows reading: keys, the ledger and the quarantine file, all of it UTF-8."""
    if isinstance(row, BadRow):
        json.dumps({"origin": row.origin, "reason": row.reason, "row": row.content}, ensure_ascii=False).encode()
        return
    assert row.messages, "an example without a message"
    row_keys.content_key(row), row_keys.question_key(row), row_keys.parameters_key(row)
    "".join([*(turn.content + turn.extra for turn in row.messages), *row.golds, row.category, row.tools]).encode()


rows_jsonl: Callable[[Path], Parser] = partial(_rows, ".jsonl")
rows_json: Callable[[Path], Parser] = partial(_rows, ".json")
rows_csv: Callable[[Path], Parser] = partial(_rows, ".csv")
rows_parquet: Callable[[Path], Parser] = partial(_rows, ".parquet")
