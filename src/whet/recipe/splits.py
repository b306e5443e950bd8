"""Which rows a source names: its kind, and the stretch of its split, so that overlaps show before any row is read."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from whet.recipe.schema import Source

SourceKind = Literal["file", "generated", "hub"]
FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
GENERATED_PREFIX = "reasoning-gym:"
_CUT_FORMATS = {"auto", "dolly", "squad"}
"""formats of which `train` and `validation` may be parts of one file"""

_SPLIT = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<start>\d{0,15})(?P<p1>%?):(?P<stop>\d{0,15})(?P<p2>%?)\])?")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows start..stop (stop excluded, None = to the end) of a split, counted in rows or in percent."""

    name: str
    start: int
    stop: int | None
    is_percent: bool

    def in_rows(self, num_rows: int) -> Stretch:
        """The same counted in rows, of a split of `num_rows` rows."""
        if not self.is_percent:
            return self
        stop = None if self.stop is None else round(self.stop * num_rows / 100)
        return Stretch(self.name, round(self.start * num_rows / 100), stop, False)


def source_kind(source: Source) -> SourceKind:
    """Whether the rows come from a local file, a generator or the hub; read off the name alone."""
    if source.source.startswith(GENERATED_PREFIX):
        return "generated"
    return "file" if source.source.lower().endswith(FILE_SUFFIXES) else "hub"


def parse_split(split: str) -> Stretch | None:
    """`train[100:200]` or `train[:10%]` -> Stretch; None when it is neither a name nor a name with a slice."""
    match = _SPLIT.fullmatch(split)
    if match is None:
        return None
    start, stop = match["start"], match["stop"]
    is_percent = bool(match["p1"] or match["p2"])
    return Stretch(match["name"], int(start or 0), int(stop) if stop else None, is_percent)


def num_rows_taken(source: Source, num_in_split: int) -> int:
    """Rows left of a split of `num_in_split` rows after the slice and the `rows` limit."""
    stretch = parse_split(source.split)
    num = num_in_split
    if stretch is not None:
        rows = stretch.in_rows(num)
        num = max(0, min(num, num if rows.stop is None else rows.stop) - rows.start)
    return min(num, source.rows) if source.rows is not None else num


def share_rows(one: Source, other: Source) -> bool:
    """Whether two sources certainly name some of the same rows. Equal rows in different places are not seen here."""
    if _identity(one) != _identity(other):
        return False
    a, b = parse_split(one.split), parse_split(other.split)
    if a is None or b is None:
        return one.split == other.split
    if a.name != b.name and not _names_same_split(one, a, other, b):
        # rows of the whole are not counted like rows of a part, so only a whole whole is certain to share some
        return "all" in (a.name, b.name) and any(
            stretch.name == "all" and _is_whole(stretch) and source.rows is None
            for stretch, source in ((a, one), (b, other))
        )
    if a.is_percent != b.is_percent and not (_is_whole(a) or _is_whole(b)):
        return False
    return _stop(a, one) > b.start and _stop(b, other) > a.start


def _names_same_split(one: Source, a: Stretch, other: Source, b: Stretch) -> bool:
    """A file is one split under several names, unless its format has a rule that cuts it, or may have one."""
    if source_kind(one) != "file" or {one.format, other.format} & _CUT_FORMATS:
        return False
    return {a.name, b.name} <= {"train", "all", PurePath(one.source).stem}


def _identity(source: Source) -> tuple[object, ...]:
    name = posixpath.normpath(source.source) if source_kind(source) == "file" else source.source
    return (name, source.config, source.revision, tuple(sorted(source.options.items(), key=str)))


def _is_whole(stretch: Stretch) -> bool:
    return stretch.start == 0 and stretch.stop is None


def _stop(stretch: Stretch, source: Source) -> float:
    stop = float("inf") if stretch.stop is None else float(stretch.stop)
    if source.rows is None or stretch.is_percent:
        return stop
    return min(stop, stretch.start + source.rows)
