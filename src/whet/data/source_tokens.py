"""One opened source -> its tokens in the cache, every row of it either a sample or a note."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
import transformers

from whet.data import row_keys, rows
from whet.data.sources import BadRow, OpenedSource
from whet.data.templates import Template
from whet.data.token_cache import CachedTokens, TokenWriter, open_tokens
from whet.data.tokenize import tokenize_stream
from whet.errors import DataError
from whet.recipe.schema import Data
from whet.types import DroppedRow, Example, LedgerRow

Say = Callable[[str], None]


def tokens_of(source: OpenedSource, template: Template, data: Data, *, say: Say) -> CachedTokens:
    """The source's tokens, made now unless the cache has them.

    Raises DataError with all bad rows unless they are to be dropped.
    """
    tokens = open_tokens(
        cache_key(source, template, data), lambda writer: _Writing(writer, source, template, data).run(say)
    )
    if data.bad_rows == "error":  # the cache may have been filled by a recipe that drops them
        bad = [DroppedRow(origin=row.origin, reason=row.reason) for row in tokens.ledger() if row.status == "bad"]
        refuse_faults(bad, tokens.facts["num_rows"], source.name)
    return tokens


class _Writing:
    """Rows of one source on their way into the cache, with the account of them."""

    def __init__(self, writer: TokenWriter, source: OpenedSource, template: Template, data: Data) -> None:
        self._writer, self._source, self._template, self._data = writer, source, template, data
        self._faults: list[DroppedRow] = []
        self._num_rows = 0

    def run(self, say: Say) -> dict[str, Any]:
        """Write everything; returns the facts that are kept with the tokens."""
        say(f"{self._source.name}: reading and tokenizing")
        data = self._data
        stream = tokenize_stream(
            self._template, self._examples(), max_length=data.max_length, over_length=data.over_length
        )
        for each in stream:
            if each.note is not None:
                self._note(each.note)
            if each.sample is not None:
                self._writer.add(
                    each.sample,
                    content=row_keys.content_key(each.example),
                    question=row_keys.question_key(each.example),
                    parameters=row_keys.parameters_key(each.example),
                    origin=each.example.origin,
                )
        if data.bad_rows == "error":
            refuse_faults(self._faults, self._num_rows, self._source.name)
        return {
            "source": self._source.name,
            "format": self._source.found_format,
            "commit": self._source.commit,
            "num_rows": self._num_rows,
        }

    def _examples(self) -> Iterator[Example]:
        for row in self._source.read():
            self._num_rows += 1
            if isinstance(row, BadRow):
                self._note(LedgerRow(origin=row.origin, status=row.kind, reason=row.reason), row.content)
            elif not self._faults or self._data.bad_rows == "drop":
                yield row
            # after a fault that will stop the run, the rest is only read to list every fault at once

    def _note(self, row: LedgerRow, content: str = "") -> None:
        self._writer.note(row, content)
        if row.status == "bad":
            self._faults.append(DroppedRow(origin=row.origin, reason=row.reason))


def refuse_faults(faults: Sequence[DroppedRow], num_rows: int, where: str) -> None:
    """DataError with the first faults and the totals, if there are any."""
    if faults:
        mend = "correct or remove these rows, or leave them out with data.bad_rows=drop; nothing was trained"
        raise DataError(rows.list_faults(faults, num_rows), where=where, mend=mend)


def cache_key(source: OpenedSource, template: Template, data: Data) -> str:
    """SHA-256 over everything that the tokens depend on: rows, tokenizer, template, settings and this code."""
    tokenizer = template.tokenizer
    parts = {
        "rows": source.content_key,
        "name": source.name,  # rows are told by it in the ledger
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "own_template": str(tokenizer.chat_template),
        "end_ids": sorted(template.end_ids),
        "data": {name: value for name, value in asdict(data).items() if name in _SETTINGS},
        "code": code_sha256(),
        "versions": [tokenizers.__version__, transformers.__version__, jinja2.__version__],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


_SETTINGS = ("template", "chat_template", "prompt", "reasoning", "max_length", "over_length")
"""Fields of the recipe's `data` that decide about tokens; the others select among samples later."""


@cache
def code_sha256() -> str:
    """SHA-256 over the code of this package: tokens of an earlier version are never taken for today's."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for path in _code_files(package):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _code_files(package: Path) -> Iterable[Path]:
    return sorted(p for p in package.rglob("*") if p.suffix in (".py", ".jinja") and p.is_file())
