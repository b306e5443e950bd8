"""What reading one row gives, or the exact reason why it gives nothing.

Strict: a null, a number where text belongs or an empty answer is a fault of its row, told as
`reason (field, found, expected)`. Loaders that accept such rows train on the text "None".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from whet.json_text import MOST_LEVELS, nests_deeply
from whet.types import Message


class RowError(ValueError):
    """Why one row is refused; the caller adds file and line."""

    def __init__(self, reason: str, *, field: str, found: str, expected: str) -> None:
        self.reason, self.field, self.found, self.expected = reason, field, found, expected
        super().__init__(f"{reason} (field {field!r}, found {found}, expected {expected})")

    def renamed(self, fields: Mapping[str, str]) -> RowError:
        """The same with the field as the row calls it, where the recipe maps it."""
        head = next((key for key in fields if self.field == key or self.field.startswith((f"{key}[", f"{key}."))), None)
        if head is None:
            return self
        field = fields[head] + self.field[len(head) :]
        return type(self)(self.reason, field=field, found=self.found, expected=self.expected)


class LeftOutError(RowError):
    """The dataset's own rule leaves this row out; nothing is wrong with it."""


class Reading(NamedTuple):
    """One row in whet's form, before the recipe's system message and instruction."""

    messages: list[Message]
    task: str
    """name in `data.datasets.TASKS`"""
    golds: tuple[str, ...]
    tools: str = ""
    """JSON list of the tools that the conversation may call"""
    category: str = ""
    """kind of the row, for breakdowns of a score; not part of what is trained or asked"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A shape of rows: the keys that give it away, one row for error messages, and how to read it."""

    keys: tuple[str, ...]
    """every row has them"""
    optional_keys: tuple[str, ...] = ()
    """read where a row has them"""
    sample: dict[str, Any]
    read: Callable[[dict[str, Any]], Reading]
    """raises RowError, or LeftOutError for a row that is left out by rule"""
    is_own: Callable[[dict[str, Any]], bool] | None = None
    """tells a row of this format from others with the same keys"""

    def fits(self, row: dict[str, Any]) -> bool:
        """Whether a row looks like this format; it may still be faulty."""
        return all(key in row for key in self.keys) and (self.is_own is None or self.is_own(row))


_JSON_TYPE_NAMES = {
    type(None): "null", str: "text", bool: "a boolean", int: "a number", float: "a number", list: "a list",
    dict: "an object",
}  # fmt: skip


def name_type(value: Any) -> str:
    """`text`, `a number`, `null`, ... for messages."""
    return _JSON_TYPE_NAMES.get(type(value), type(value).__name__)


def name_keys(row: Mapping[str, Any]) -> str:
    """The first keys of a row, quoted, for messages."""
    return ", ".join(map(repr, list(row)[:12])) or "none"


def check_text(value: Any, field: str, *, may_be_empty: bool = False) -> str:
    """The value, if it is text that can be tokenized."""
    if not isinstance(value, str):
        reason = "null where text is needed" if value is None else "not text"
        raise RowError(reason, field=field, found=name_type(value), expected="text")
    if not value.strip() and not may_be_empty:
        raise RowError("empty text", field=field, found=repr(value[:20]), expected="at least one visible character")
    if "\x00" in value:
        raise RowError("NUL character", field=field, found="\\u0000", expected="text without NUL")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise RowError("lone surrogate", field=field, found="half of a UTF-16 pair", expected="valid Unicode text")
    return value


def get_text(row: dict[str, Any], field: str, *, may_be_empty: bool = False) -> str:
    """Text of one key."""
    return check_text(get_value(row, field, "text"), field, may_be_empty=may_be_empty)


def get_category(row: dict[str, Any], field: str) -> str:
    """Text of a key that only breakdowns read; "" where a row has none that could be a label."""
    value = row.get(field)
    return value.strip() if isinstance(value, str) and value.isprintable() else ""


def get_value(row: dict[str, Any], field: str, expected: str, *, place: str = "") -> Any:
    """Value of a key that must be there; `place` is what the key stands in, as `messages[2].`"""
    if field not in row:
        raise RowError("missing key", field=place + field, found=f"keys {name_keys(row)}", expected=expected)
    return row[field]


def get_texts(value: Any, field: str) -> tuple[str, ...]:
    """A non-empty list of texts."""
    if not isinstance(value, list):
        raise RowError("not a list", field=field, found=name_type(value), expected="a list of texts")
    if not value:
        raise RowError("empty list", field=field, found="[]", expected="at least one text")
    return tuple(check_text(each, f"{field}[{index}]") for index, each in enumerate(value))


def to_json_text(value: Any, field: str) -> str:
    """JSON text of a value that a chat template will be given, its texts checked like all others."""
    if nests_deeply(value):
        raise RowError(
            "nested too deeply", field=field, found=f"more than {MOST_LEVELS} levels", expected="plain JSON values"
        )
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError("not JSON", field=field, found=str(error)[:80], expected="plain JSON values") from error
    check_text(text.replace("\\u0000", "\x00"), field)
    return text


def pair(question: str, answer: str) -> list[Message]:
    """A question and the answer to learn."""
    return [Message(role="user", content=question), Message(role="assistant", content=answer, is_taught=True)]
