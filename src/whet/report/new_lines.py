"""A file of JSON lines that another process may be writing: what is new since the last look, and nothing twice."""

from __future__ import annotations

import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.json_text import objects_of_lines

MAX_BYTES = 8 << 20
"""read at one look"""
_MARK_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far a file was read: at its beginning without arguments."""

    file: int = 0
    """number of the file on its disk: a replaced file has another one"""
    offset: int = 0
    """bytes that were read; a line begins here"""
    mark: int = 0
    """checksum of the last bytes before `offset`"""

    def __str__(self) -> str:
        return f"{self.file}-{self.offset}-{self.mark}"


def parse_place(text: str) -> Place:
    """What `str(place)` gave; the beginning for every other text."""
    numbers = text.split("-")
    if len(numbers) != 3 or not all(each.isascii() and each.isdigit() and len(each) < 20 for each in numbers):
        return Place()
    file, offset, mark = map(int, numbers)
    return Place(file=file, offset=offset, mark=mark)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLines:
    """What a look found."""

    objects: tuple[dict[str, Any], ...]
    place: Place
    """where the next look begins"""
    is_anew: bool
    """the file is another one than before, or its beginning has changed: `objects` are from its first line on, and what
    was read earlier is void"""
    has_more: bool = False
    """there is more than one look reads"""


def read_new_lines(path: Path, place: Place, max_bytes: int = MAX_BYTES) -> NewLines:
    """The objects of the whole lines behind `place`. A line without its end is left for the next look.

    No file, one that may not be read, a link and what is no plain file hold nothing.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return NewLines(objects=(), place=Place(), is_anew=place != Place())
    with os.fdopen(handle, "rb"):
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return NewLines(objects=(), place=Place(), is_anew=place != Place())
        is_same = place.file == status.st_ino and place.mark == _mark(handle, place.offset)
        start = place.offset if is_same else 0
        content = os.pread(handle, max_bytes, start)
        whole = content[: content.rfind(b"\n") + 1]
        if not whole and len(content) == max_bytes:
            whole = content  # no line is that long: it is passed over
        end = start + len(whole)
        return NewLines(
            objects=tuple(objects_of_lines(whole)),
            place=Place(file=status.st_ino, offset=end, mark=_mark(handle, end)),
            is_anew=not is_same and place != Place(),
            has_more=len(content) == max_bytes,
        )


def _mark(handle: int, offset: int) -> int:
    start = max(0, offset - _MARK_BYTES)
    return zlib.crc32(os.pread(handle, offset - start, start)) if offset else 0
