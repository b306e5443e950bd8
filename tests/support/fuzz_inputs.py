"""Inputs for parsers: a small corpus by target, and ways to damage its entries. Everything follows from a seed.

An entry of several files is one text whose parts are separated by a line `=====` (`parts_of`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
CANARY = "canary-of-the-fuzzer"
"""payloads among the words create this file in the working folder if something runs them"""
MAX_BYTES = 1 << 16
_USUAL_BYTES = 1 << 12
"""most inputs are no larger: a parser that is slow on large ones shows it on few"""
_SEPARATOR = b"\n=====\n"
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 0.5, 1e308, 2**63, -(2**64), 10**30, "", "x", "0", "nan", "../../etc/passwd", "\ud800",
    "\x00", "\u202e", [], {}, [[]], [None], [1, "x", {}], {"": None}, {"a": {"a": {}}}, "a" * 5000,
)  # fmt: skip
WORDS: tuple[bytes, ...] = (
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\r\n", b"\r", b"\n\n", b"\t",
    b"\xe2\x80\xa8", b"\xc2\x85", b"\x1c", b"\x0c", b" ", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0",
    b"1e-999", b"9" * 40, b"9" * 5000, b"0x1p3", b"1_000", b"\xd9\xa3", b"\xc2\xb2", b"~", b"{", b"}", b"[", b"]",
    b'"', b"'", b"\\", b"\\u0000", b"\\ud800", b",", b":", b": ", b"- ", b"#", b"|", b">", b"&a", b"*a", b"<<: *a",
    b"!!python/object/apply:os.system ['touch " + CANARY.encode() + b"']", b"!!binary", b"%YAML 9.9", b"---", b"...",
    b"__import__('os').system('touch " + CANARY.encode() + b"')", b"$(touch " + CANARY.encode() + b")",
    b"{{ ''.__class__.__mro__ }}", b"<script>alert(1)</script>", b"../../../tmp/x", b"/etc/passwd", b"a" * 300,
    b"<|im_start|>", b"<|im_end|>", b"<|begin_of_text|>", b"</think>", b"\\frac{", b"\\boxed{", b"####", b"Answer:",
    b"the answer is:", b"Question:", b"9**9**9", b"1,234,567.89", b"1/0", b"0/0", b"1 1/2", b"10:30", b"5/3/2024",
)  # fmt: skip


def corpus_of(target: str) -> list[bytes]:
    """The committed entries of a target, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir()) if path.is_file()]


def parts_of(data: bytes, num_parts: int) -> list[bytes]:
    """The files of an entry; missing ones are empty, what is left over belongs to the last."""
    parts = data.split(_SEPARATOR, num_parts - 1)
    return parts + [b""] * (num_parts - len(parts))


def join_parts(*parts: bytes) -> bytes:
    """An entry of several files."""
    return _SEPARATOR.join(parts)


def mutated(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    """`data` after one to five random changes, at most 64 KiB, seldom above 4."""
    most = MAX_BYTES if random.random() < 0.03 else max(_USUAL_BYTES, len(data))
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5))):
        data = random.choice(_CHANGES)(data, others, words, random)[:most]
    return data


def _place(data: bytes, random: Random) -> int:
    return random.randint(0, len(data))


def _slice(data: bytes, random: Random) -> tuple[int, int]:
    start = _place(data, random)
    return start, min(len(data), start + random.choice((1, 1, 2, 4, 8, 32, 256)))


def _flip(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    if not data:
        return data
    place = random.randrange(len(data))
    return data[:place] + bytes((data[place] ^ (1 << random.randrange(8)),)) + data[place + 1 :]


def _replace_byte(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    place = _place(data, random)
    return data[:place] + bytes((random.randrange(256),)) + data[place + 1 :]


def _delete(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    start, stop = _slice(data, random)
    return data[:start] + data[stop:]


def _repeat(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    start, stop = _slice(data, random)
    return data[:stop] + data[start:stop] * random.choice((1, 2, 3, 50, 2000)) + data[stop:]


def _insert_word(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    place = _place(data, random)
    return data[:place] + random.choice(words) + data[place:]


def _replace_by_word(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    start, stop = _slice(data, random)
    return data[:start] + random.choice(words) + data[stop:]


def _splice(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    other = random.choice(others)
    return data[: _place(data, random)] + other[_place(other, random) :]


def _cut(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    return data[: _place(data, random)]


def _move_line(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    lines = data.split(b"\n")
    line = lines.pop(random.randrange(len(lines)))
    lines.insert(random.randint(0, len(lines)), line)
    return b"\n".join(lines)


def _change_number(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    number = random.choice(found)
    other = random.choice((b"0", b"-1", b"1e999", b"0.5", b"9" * 20, b"9" * 5000, b"2147483648", b"null", b'"7"'))
    return data[: number.start()] + other + data[number.end() :]


def _change_value(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    """What stands behind a colon becomes another word."""
    colons = [found.end() for found in re.finditer(rb":[ ]", data)]
    if not colons:
        return data
    start = random.choice(colons)
    stop = min(position for position in (data.find(b"\n", start), data.find(b",", start), len(data)) if position >= 0)
    return data[:start] + random.choice(words) + data[stop:]


def _nest(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    opened = random.choice((b"[", b"{", b'{"a":', b"(", b"\\frac{", b"- ", b"{{", b"{% if 1 %}"))
    place = _place(data, random)
    return data[:place] + opened * random.choice((3, 30, 1000, 20_000)) + data[place:]


def _change_json(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    """One value of one JSON document among the lines becomes another one, or vanishes."""
    for separator in (_SEPARATOR, b"\n"):
        pieces = data.split(separator)
        number = random.randrange(len(pieces))
        try:
            document = json.loads(pieces[number])
        except (ValueError, RecursionError):
            continue
        pieces[number] = json.dumps(_changed(document, random)).encode()
        return separator.join(pieces)
    return data


def _changed(document: Any, random: Random) -> Any:
    """`document` with one random value replaced, removed or given twice."""
    node, way = document, []
    while isinstance(node, dict | list) and node and (not way or random.random() < 0.75):
        key = random.choice(list(node)) if isinstance(node, dict) else random.randrange(len(node))
        way.append((node, key))
        node = node[key]
    if not way:
        return random.choice(ODD_VALUES)
    holder, key = way[-1]
    if random.random() < 0.2:
        del holder[key]
    else:
        holder[key] = random.choice(ODD_VALUES)
    return document


_CHANGES: tuple[Callable[[bytes, Sequence[bytes], Sequence[bytes], Random], bytes], ...] = (
    _flip, _replace_byte, _delete, _repeat, _insert_word, _replace_by_word, _splice, _cut, _move_line, _change_number,
    _change_value, _nest, _change_json, _change_json, _change_json,
)  # fmt: skip
