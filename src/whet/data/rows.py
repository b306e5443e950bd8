"""One raw row -> one Example, or a BadRow that says why not and carries the row for a quarantine file."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from whet.data.files import RawRow
from whet.data.formats import FORMATS, read_fields
from whet.data.reading import LeftOutError, Reading, RowError, name_type
from whet.types import DroppedRow, Example, LedgerRow, Message

NUM_LISTED_FAULTS = 20
_MAX_CONTENT_CHARACTERS = 10_000
_ID_HEX_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that gives no example."""

    origin: str
    """`file:line`, as in RawRow"""
    reason: str
    kind: Literal["bad", "left out"]
    """`left out`: by the dataset's own rule (SQuAD 2's questions without an answer); `bad`: a fault"""
    content: str
    """the raw row as text for a quarantine file, at most 10,000 characters"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReader:
    """How the rows of one source are read: their format, and what the recipe puts around every row."""

    format_name: str
    """name in `data.formats.FORMATS`"""
    fields: Mapping[str, str] = field(default_factory=dict)
    """key of the format -> key of the rows"""
    system: str | None = None
    instruction: str | None = None

    def read(self, row: RawRow) -> Example | BadRow:
        """The row as an example with occurrence number 0, or why it gives none; never raises for a row."""
        if row.fault is not None:
            return BadRow(origin=row.origin, reason=row.fault, kind="bad", content=row.text)
        if not isinstance(row.value, dict):
            found = f"found {name_type(row.value)}, expected an object with keys"
            return _refuse(row, f"row is not an object ({found})", "bad")
        try:
            reading = FORMATS[self.format_name].read(read_fields(row.value, self.format_name, self.fields))
        except RowError as error:
            kind: Literal["bad", "left out"] = "left out" if isinstance(error, LeftOutError) else "bad"
            return _refuse(row, str(error.renamed(self.fields)), kind)
        return build_example(reading, origin=row.origin, system=self.system, instruction=self.instruction)


def _refuse(row: RawRow, reason: str, kind: Literal["bad", "left out"]) -> BadRow:
    return BadRow(origin=row.origin, reason=reason, kind=kind, content=_write_raw(row.value))


def _write_raw(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        return f"cannot be written as JSON: {error}"
    # half a surrogate pair cannot be written to a file, its escape can
    return text[:_MAX_CONTENT_CHARACTERS].encode("utf-8", "backslashreplace").decode()[:_MAX_CONTENT_CHARACTERS]


def build_example(
    reading: Reading, *, origin: str, system: str | None = None, instruction: str | None = None, parameters: str = ""
) -> Example:
    """An Example with the recipe's system message and instruction; its id is `content hash-0`.

    `parameters` defaults to a hash of the bare questions, so that overlap is found whatever the instruction says.
    """
    turns = reading.messages
    if not parameters:
        asked = [turn.content for turn in turns if turn.role == "user"] or [turn.content for turn in turns]
        parameters = _hash(normalise("\n".join(asked)))
    turns = _add(turns, system, instruction)
    told = [[turn.role, turn.content, turn.is_taught, *([turn.extra] if turn.extra else [])] for turn in turns]
    tools = [reading.tools] if reading.tools else []
    return Example(
        id=_hash(json.dumps([told, reading.task, reading.golds, *tools])) + "-0",
        messages=tuple(turns),
        task=reading.task,
        golds=reading.golds,
        origin=origin,
        parameters=parameters,
        category=reading.category,
        tools=reading.tools,
    )


def _add(messages: Sequence[Message], system: str | None, instruction: str | None) -> list[Message]:
    turns = list(messages)
    if instruction:
        last_user = max(index for index, turn in enumerate(turns) if turn.role == "user")
        turns[last_user] = replace(turns[last_user], content=f"{turns[last_user].content.rstrip()}\n\n{instruction}")
    if system is not None and turns[0].role != "system":
        turns.insert(0, Message(role="system", content=system))
    return turns


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:_ID_HEX_DIGITS]


def normalise(text: str) -> str:
    """Text for comparing questions: compatibility forms, case and white space do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def number_ids(examples: Iterable[Example]) -> tuple[Example, ...]:
    """Unique ids `content hash - occurrence number`: the same after any shuffle, also over joined sources."""
    seen: Counter[str] = Counter()
    numbered = []
    for example in examples:
        content_hash = example.id[:_ID_HEX_DIGITS]
        numbered.append(replace(example, id=f"{content_hash}-{seen[content_hash]}"))
        seen[content_hash] += 1
    return tuple(numbered)


def list_faults(faults: Sequence[BadRow] | Sequence[DroppedRow], num_rows: int) -> str:
    """The first 20 faults as `file:line: reason (field, found, expected)`, and the totals by reason."""
    lines = [f"{len(faults)} of {num_rows} rows cannot be used", *list_first(faults)]
    totals = Counter(fault.reason.split(" (")[0] for fault in faults)
    lines.append("    totals: " + ", ".join(f"{reason} {count}" for reason, count in totals.most_common()))
    return "\n".join(lines)


def list_first(rows: Sequence[BadRow] | Sequence[DroppedRow] | Sequence[LedgerRow]) -> list[str]:
    """A line for each of the first 20 rows, origin and reason, and one that counts the others."""
    lines = [f"    {row.origin}: {row.reason}" for row in rows[:NUM_LISTED_FAULTS]]
    if len(rows) > NUM_LISTED_FAULTS:
        lines.append(f"    ... and {len(rows) - NUM_LISTED_FAULTS} more")
    return lines
