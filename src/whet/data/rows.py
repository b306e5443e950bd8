"""One row of a file -> one Example, or the exact reason why not.

Strict by default: a null, a number where text belongs, an empty answer or a torn line stops before training with
`file:line: reason (field, found, expected)`. Loaders that accept such rows train on the text "None".
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

from whet.data.datasets import math_answer, plain_answer
from whet.data.files import RawRow
from whet.errors import DataError
from whet.types import DroppedRow, Example, Message, Role

_NUM_LISTED_FAULTS = 20
_NUM_ROWS_TO_DETECT = 20
_ID_HEX_DIGITS = 16


class RowError(ValueError):
    """Why one row is refused; the caller adds file and line."""


def _fault(reason: str, field: str, found: str, expected: str) -> RowError:
    return RowError(f"{reason} (field {field!r}, found {found}, expected {expected})")


_JSON_TYPE_NAMES = {
    type(None): "null", str: "text", bool: "a boolean", int: "a number", float: "a number", list: "a list",
    dict: "an object",
}  # fmt: skip


def _name_type(value: Any) -> str:
    return _JSON_TYPE_NAMES.get(type(value), type(value).__name__)


def _check_text(value: Any, field: str, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        reason = "null where text is needed" if value is None else "not text"
        raise _fault(reason, field, _name_type(value), "text")
    if not value.strip() and not may_be_empty:
        raise _fault("empty text", field, repr(value[:20]), "at least one visible character")
    if "\x00" in value:
        raise _fault("NUL character", field, "\\u0000", "text without NUL")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise _fault("lone surrogate", field, "half of a UTF-16 pair", "valid Unicode text")
    return value


def _get_text(row: dict[str, Any], field: str, *, may_be_empty: bool = False) -> str:
    if field not in row:
        raise _fault("missing key", field, f"keys {_name_keys(row)}", "text")
    return _check_text(row[field], field, may_be_empty=may_be_empty)


def _name_keys(row: dict[str, Any]) -> str:
    return ", ".join(map(repr, list(row)[:12])) or "none"


def _read_turns(value: Any, field: str) -> list[Message]:
    if not isinstance(value, list):
        raise _fault("not a list of messages", field, _name_type(value), "a list of {role, content}")
    if not value:
        raise _fault("empty list of messages", field, "[]", "at least one user and one assistant turn")
    turns = []
    for index, turn in enumerate(value):
        place = f"{field}[{index}]"
        if not isinstance(turn, dict):
            raise _fault("not a message", place, _name_type(turn), "{role, content}")
        if turn.get("tool_calls"):
            raise _fault("tool calls are not supported", f"{place}.tool_calls", "a call", "text content only")
        role: Role | None = turn.get("role")
        if role is None or role not in get_args(Role):
            raise _fault("wrong role", f"{place}.role", repr(role)[:40], f"one of {', '.join(get_args(Role))}")
        if "content" not in turn:
            raise _fault("missing key", f"{place}.content", f"keys {_name_keys(turn)}", "text")
        # an empty system message is a common way to ask for none
        content = _check_text(turn["content"], f"{place}.content", may_be_empty=role == "system")
        turns.append(Message(role=role, content=content))
    return turns


def _check_conversation(turns: Sequence[Message], field: str) -> None:
    roles = [turn.role for turn in turns]
    if "assistant" not in roles:
        raise _fault("no assistant turn", field, f"roles {', '.join(roles)}", "an answer to learn")
    if roles.count("system") > 1:
        raise _fault("two system turns", field, f"{roles.count('system')}", "at most one")
    if "system" in roles[1:]:
        raise _fault("system turn is not first", field, f"roles {', '.join(roles)}", "system, user, assistant, ...")
    if "user" not in roles[: roles.index("assistant")]:
        raise _fault("no user turn before the answer", field, f"roles {', '.join(roles)}", "user before assistant")
    if roles[-1] != "assistant":
        raise _fault("last turn is not the assistant's", field, roles[-1], "assistant")


def _read_messages(row: dict[str, Any]) -> list[Message]:
    if "messages" not in row:
        raise _fault("missing key", "messages", f"keys {_name_keys(row)}", "a list of {role, content}")
    turns = _read_turns(row["messages"], "messages")
    _check_conversation(turns, "messages")
    return [replace(turn, is_taught=turn.role == "assistant") for turn in turns]


def _read_prompt_completion(row: dict[str, Any]) -> list[Message]:
    """Two texts, or two lists of messages (then only the completion's assistant turns are taught)."""
    if not (isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list)):
        return _pair(_get_text(row, "prompt"), _get_text(row, "completion"))
    prompt, completion = _read_turns(row["prompt"], "prompt"), _read_turns(row["completion"], "completion")
    _check_conversation([*prompt, *completion], "prompt + completion")
    return [*prompt, *(replace(turn, is_taught=turn.role == "assistant") for turn in completion)]


def _read_alpaca(row: dict[str, Any]) -> list[Message]:
    instruction, output = _get_text(row, "instruction"), _get_text(row, "output")
    context = _get_text(row, "input", may_be_empty=True) if "input" in row else ""
    return _pair(f"{instruction}\n\n{context}" if context.strip() else instruction, output)


def _read_question_answer(row: dict[str, Any]) -> list[Message]:
    return _pair(_get_text(row, "question"), _get_text(row, "answer"))


def _pair(question: str, answer: str) -> list[Message]:
    return [Message(role="user", content=question), Message(role="assistant", content=answer, is_taught=True)]


class Format(NamedTuple):
    """A shape of rows: the keys that give it away, how to read it, one row for error messages."""

    keys: tuple[str, ...]
    read: Callable[[dict[str, Any]], list[Message]]
    sample: str


FORMATS = {
    "messages": Format(
        ("messages",),
        _read_messages,
        '{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}',
    ),
    "prompt_completion": Format(
        ("prompt", "completion"), _read_prompt_completion, '{"prompt": "2+2?", "completion": "4"}'
    ),
    "alpaca": Format(
        ("instruction", "output"), _read_alpaca, '{"instruction": "Add.", "input": "2 and 2", "output": "4"}'
    ),
    "question_answer": Format(("question", "answer"), _read_question_answer, '{"question": "2+2?", "answer": "4"}'),
}


def detect_format(rows: Sequence[RawRow], where: str) -> str:
    """The format whose keys most of the first rows have; DataError with the accepted shapes if there is none."""
    first = [row.value for row in rows if isinstance(row.value, dict)][:_NUM_ROWS_TO_DETECT]
    counts = {name: sum(all(key in row for key in shape.keys) for row in first) for name, shape in FORMATS.items()}
    best = max(counts, key=lambda name: counts[name])
    if counts[best]:
        return best
    keys = Counter(key for row in first for key in row)
    found = ", ".join(repr(key) for key, _ in keys.most_common(12)) or "no JSON object at all"
    shapes = "\n".join(f"    {name}: {shape.sample}" for name, shape in FORMATS.items())
    what = f"the rows fit none of the accepted shapes (keys found: {found})"
    if "conversations" in keys:
        what += "; ShareGPT `conversations` are not read yet, convert them to `messages`"
    faults = [f"    {row.origin}: {row.fault}" for row in rows if row.fault][:_NUM_LISTED_FAULTS]
    if faults:
        what += "\n" + "\n".join(faults)
    raise DataError(what, where=where, mend=f"write each row in one of these shapes\n{shapes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Additions:
    """What the recipe puts around every row of a source, the same in training and evaluation."""

    system: str | None = None
    instruction: str | None = None


def build_example(
    messages: Sequence[Message], *, origin: str, additions: Additions, task: str, golds: tuple[str, ...],
    parameters: str = "",
) -> Example:  # fmt: skip
    """An Example with the recipe's system message and instruction; its id is still without occurrence number.

    `parameters` defaults to a hash of the bare questions, so that overlap is found whatever the instruction says.
    """
    turns = list(messages)
    if not parameters:
        parameters = _hash(normalise("\n".join(turn.content for turn in turns if turn.role == "user")))
    if additions.instruction:
        last_user = max(index for index, turn in enumerate(turns) if turn.role == "user")
        content = f"{turns[last_user].content.rstrip()}\n\n{additions.instruction}"
        turns[last_user] = replace(turns[last_user], content=content)
    if additions.system is not None and turns[0].role != "system":
        turns.insert(0, Message(role="system", content=additions.system))
    content = json.dumps([[[turn.role, turn.content, turn.is_taught] for turn in turns], task, golds])
    return Example(id=_hash(content), messages=tuple(turns), task=task, golds=golds, origin=origin,
                   parameters=parameters)  # fmt: skip


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


def read_examples(
    rows: Sequence[RawRow], *, format_name: str, additions: Additions, where: str, skip_bad_rows: bool = False
) -> tuple[tuple[Example, ...], tuple[DroppedRow, ...]]:
    """Examples with unique ids, and the rows left out (only with `skip_bad_rows`).

    Raises DataError with the first 20 faults as `file:line: reason (field, found, expected)` and the totals.
    """
    examples, faults = [], []
    for row in rows:
        try:
            examples.append(_read_row(row, format_name, additions))
        except RowError as fault:
            faults.append(DroppedRow(origin=row.origin, reason=str(fault)))
    if faults and not skip_bad_rows:
        raise DataError(_list_faults(faults, len(rows)), where=where,
                        mend="correct or remove these rows; nothing was trained")  # fmt: skip
    return number_ids(examples), tuple(faults)


def _read_row(row: RawRow, format_name: str, additions: Additions) -> Example:
    if row.fault is not None:
        raise RowError(row.fault)
    if not isinstance(row.value, dict):
        raise RowError(f"row is not an object (found {_name_type(row.value)}, expected an object with keys)")
    messages = FORMATS[format_name].read(row.value)
    answer = messages[-1].content
    if math_answer.has_final_line(answer):
        task, gold = "math_answer", math_answer.extract(answer)[0]
    else:
        task, gold = "plain_answer", plain_answer.extract(answer)[0]
    return build_example(messages, origin=row.origin, additions=additions, task=task, golds=(gold,))


def _list_faults(faults: Sequence[DroppedRow], num_rows: int) -> str:
    lines = [f"{len(faults)} of {num_rows} rows cannot be used"]
    lines += [f"    {fault.origin}: {fault.reason}" for fault in faults[:_NUM_LISTED_FAULTS]]
    if len(faults) > _NUM_LISTED_FAULTS:
        lines.append(f"    ... and {len(faults) - _NUM_LISTED_FAULTS} more")
    totals = Counter(fault.reason.split(" (")[0] for fault in faults)
    lines.append("    totals: " + ", ".join(f"{reason} {count}" for reason, count in totals.most_common()))
    return "\n".join(lines)
