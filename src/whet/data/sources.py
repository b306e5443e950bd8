"""A source of the recipe -> its examples, one after the other: local file, hub dataset or generated problems.

A slice `train[500:1000]` counts rows from 0, blank lines aside, before anything is left out. A local file is one
split; it answers to `train`, to `all` and to its own stem (`test.jsonl` to `test[:100]`). Dolly and SQuAD have a split
rule: there `train` and `validation` (dolly: `test`) are parts of the file, in the file's order, and `all` is the whole.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from whet.data.datasets import DATASETS, SPLIT_RULES, answer_line, find_dataset, generated, squad
from whet.data.datasets.nemo_split import SplitRule
from whet.data.files import READERS, RawRow, check_file, hash_file, read_rows
from whet.data.formats import NUM_ROWS_TO_DETECT, check_fields, detect_format
from whet.data.hub import open_hub_split
from whet.data.reading import Reading, pair
from whet.data.rows import BadRow, RowReader, build_example
from whet.errors import DataError, RecipeError
from whet.recipe.schema import Source
from whet.recipe.splits import Stretch, parse_split
from whet.types import Example

__all__ = ["BadRow", "OpenedSource", "open_source"]

_READING_VERSION = 1
"""Part of every content key: raise it when the same rows come to give other examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSource:
    """One source, found and its format known; its rows are read as often as `read` is called, in bounded memory."""

    name: str
    """`gsm8k/train.jsonl [train[:500]]`, for sentences"""
    found_format: str
    """name in `data.formats.FORMATS`, or `generated`"""
    commit: str | None
    """commit of a hub dataset"""
    content_key: str
    """SHA-256 over all that the examples depend on, not over where the rows lie"""
    note: str = ""
    """how the split came about, where a dataset's rule cuts it; to be said aloud"""
    read: Callable[[], Iterator[Example | BadRow]] = field(repr=False)
    """Every row in order as an example (id `content hash-0`) or the reason why it gives none. Raises DataError or
    HubError only where the file or dataset as a whole cannot be read on."""


class _RawSplit(NamedTuple):
    """The raw rows of a file or a hub split before split rule and slice."""

    read: Callable[[], Iterator[RawRow]]
    num_rows: int | None
    version: str
    commit: str | None
    is_file: bool


def open_source(source: Source, *, seed: int, base_folder: Path) -> OpenedSource:
    """Find the rows of one source and their format, and read none of them for good yet.

    `seed` matters for generated problems only (`options: {seed: 7}` in the source overrides it). Relative files
    start at `base_folder`. Raises DataError (file or format), HubError (not fetched) or RecipeError (impossible).
    """
    split = _parse_split(source)
    if source.source.startswith(generated.PREFIX):
        return _open_generated(source, split, seed)
    raw = _open_raw(source, split, base_folder)
    format_name = _find_format(source, raw, split)
    rule = _find_rule(source, split, raw, format_name)
    part = rule.cut(_count(raw))[split.name] if rule else None
    if split.is_percent:
        split = split.in_rows(len(part) if part is not None else _count(raw))
    if format_name == "text" and (source.instruction or source.system is not None):
        raise RecipeError("rows of plain text have no question to put `instruction` or `system` to",
                          where=source.source, mend="remove them from this source")  # fmt: skip
    reader = RowReader(
        format_name=format_name, fields=source.fields, system=source.system, instruction=source.instruction
    )

    def read() -> Iterator[Example | BadRow]:
        rows = raw.read() if part is None else _pick(raw.read(), part)
        for row in _take(rows, split, source):
            yield reader.read(row)

    return OpenedSource(
        name=f"{source.source} [{source.split}]",
        found_format=format_name,
        commit=raw.commit,
        content_key=_hash_key(source, format_name, raw.version),
        note=f"{split.name} is a part of {rule.sentence}" if rule else "",
        read=read,
    )


def _open_raw(source: Source, split: Stretch, base_folder: Path) -> _RawSplit:
    if _is_file(source.source, base_folder):
        return _open_file(source, base_folder / Path(source.source).expanduser(), split)
    dataset = find_dataset(source.source)
    rule = SPLIT_RULES.get(dataset or "") if source.format in ("auto", dataset) else None
    config = source.config or (DATASETS[dataset].CONFIG if dataset else None)
    hub_split = rule.hub_splits.get(split.name, split.name) if rule else split.name
    opened = open_hub_split(
        source.source, split=hub_split, config=config, revision=source.revision, stream=source.stream
    )
    version = json.dumps([source.source, config, hub_split, opened.version])
    return _RawSplit(opened.read, opened.num_rows, version, opened.commit, is_file=False)


def _open_file(source: Source, path: Path, split: Stretch) -> _RawSplit:
    check_file(path, source.source)
    cut_names = {name for rule in SPLIT_RULES.values() for name in rule.parts}
    may_be_cut = source.format in ("auto", *SPLIT_RULES) and split.name in cut_names
    if not _is_whole_file(source, split) and not may_be_cut:
        raise _no_such_split(source, split)
    version = hash_file(path, source.source)
    stamp = _stamp(path)
    may_be_nested = source.format in ("auto", "squad")

    def read() -> Iterator[RawRow]:
        if _stamp(path) != stamp:
            raise DataError("was changed after it was opened", where=source.source, mend="start again")
        rows = read_rows(path, source.source)
        return _flatten(rows, source.source) if may_be_nested else rows

    return _RawSplit(read, None, version, None, is_file=True)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _is_whole_file(source: Source, split: Stretch) -> bool:
    return split.name in ("train", "all", Path(source.source).stem)


def _no_such_split(source: Source, split: Stretch) -> RecipeError:
    return RecipeError(
        f"a file is one split, it has no {split.name!r}",
        where=source.source,
        mend="write `train` (or a slice, `train[:500]`), or name another file",
    )


def _is_file(name: str, base_folder: Path) -> bool:
    looks_like_file = Path(name).suffix.lower() in READERS or name.startswith((".", "/", "~")) or name.count("/") > 1
    return looks_like_file or (base_folder / name).exists()


def _flatten(rows: Iterator[RawRow], label: str) -> Iterator[RawRow]:
    """Rows as they are; a file in SQuAD's nested structure as one row per question, counted from 1."""
    for row in rows:
        if not squad.is_nested(row.value):
            yield row
            continue
        for number, (value, fault) in enumerate(squad.flatten(row.value), start=1):
            origin = f"{label}:row {number}"
            yield RawRow(origin=origin, value=value, fault=str(fault) if fault else None)


def _find_format(source: Source, raw: _RawSplit, split: Stretch) -> str:
    start = 0 if split.is_percent else split.start
    first = list(islice(raw.read(), start, start + NUM_ROWS_TO_DETECT))
    if not first:
        raise _no_rows(source, _count(raw))
    name = source.format if source.format != "auto" else find_dataset(source.source)
    if name is None:
        name = detect_format(first, source.source, fields=source.fields)
    check_fields(name, source.fields, first, source.source)
    return name


def _find_rule(source: Source, split: Stretch, raw: _RawSplit, format_name: str) -> SplitRule | None:
    """The rule that cuts this split out of the raw rows; a hub dataset under another id keeps its own splits."""
    rule = SPLIT_RULES.get(format_name) if raw.is_file or find_dataset(source.source) == format_name else None
    if rule and split.name in rule.parts:
        return rule
    if raw.is_file and not _is_whole_file(source, split):
        raise _no_such_split(source, split)
    return None


def _count(raw: _RawSplit) -> int:
    return raw.num_rows if raw.num_rows is not None else sum(1 for _ in raw.read())


def _pick(rows: Iterator[RawRow], numbers: np.ndarray) -> Iterator[RawRow]:
    wanted = iter(numbers.tolist())
    next_wanted = next(wanted, None)
    for number, row in enumerate(rows):
        if number == next_wanted:
            yield row
            next_wanted = next(wanted, None)


def _take(rows: Iterator[RawRow], split: Stretch, source: Source) -> Iterator[RawRow]:
    """The slice of the split, then at most `rows` of it; DataError where that is nothing."""
    stops = [stop for stop in (split.stop, source.rows and split.start + source.rows) if stop]
    number = 0
    for number, row in enumerate(islice(rows, min(stops, default=None)), start=1):
        if number > split.start:
            yield row
    if number <= split.start:
        raise _no_rows(source, number)


def _no_rows(source: Source, num_rows: int) -> DataError:
    return DataError(
        f"split {source.split!r} takes no rows: there are {num_rows}",
        where=source.source,
        mend=f"start the slice below {num_rows}",
    )


def _hash_key(source: Source, format_name: str, version: str) -> str:
    told = {
        "reading": _READING_VERSION, "version": version, "split": source.split, "rows": source.rows,
        "format": format_name, "fields": source.fields, "system": source.system, "instruction": source.instruction,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _parse_split(source: Source) -> Stretch:
    """`train`, `train[:500]`, `train[500:1000]`, `train[10%:]`; RecipeError for anything else."""
    split = parse_split(source.split)
    if split is None:
        raise RecipeError(
            f"split {source.split!r} is not understood",
            where=source.source,
            mend="write a name, or a name with row numbers as in train[:500] or train[500:1000]",
        )
    if split.stop is not None and split.stop <= split.start:
        raise RecipeError(
            f"split {source.split!r} takes no rows",
            where=source.source,
            mend="the second number must be the larger one",
        )
    return split


def _open_generated(source: Source, split: Stretch, seed: int) -> OpenedSource:
    side: Literal["train", "test"] = "test" if split.name == "test" else "train"
    if split.name != side:
        raise RecipeError(
            f"generated problems have no split {split.name!r}",
            where=source.source,
            mend="write train or test; validation rows are e.g. train[2000:2200]",
        )
    stops = [stop for stop in (split.stop, source.rows and split.start + source.rows) if stop]
    if split.is_percent:
        raise RecipeError(
            "generated problems are counted in rows, not in percent", where=source.source, mend="write e.g. test[:100]"
        )
    if not stops:
        raise RecipeError("how many problems?", where=source.source, mend="add `rows: 1000` to this source")
    options = {key: value for key, value in source.options.items() if key != "seed"}
    own_seed = int(source.options.get("seed", seed))
    instruction = answer_line.INSTRUCTION if source.instruction is None else source.instruction

    task = source.source.removeprefix(generated.PREFIX)

    def read() -> Iterator[Example | BadRow]:
        problems = generated.generate_rows(
            task, split=side, start=split.start, stop=min(stops),
            seed=own_seed, options=options,
        )  # fmt: skip
        for problem in problems:
            messages = pair(problem.question, problem.answer)
            reading = Reading(messages=messages, task="generated", golds=(problem.gold,), category=task)
            yield build_example(reading, origin=problem.origin, system=source.system, instruction=instruction,
                                parameters=problem.key)  # fmt: skip

    version = json.dumps([source.source, options, own_seed, _library_version(), instruction], sort_keys=True)
    return OpenedSource(
        name=f"{source.source} [{source.split}]",
        found_format="generated",
        commit=None,
        content_key=_hash_key(source, "generated", version),
        read=read,
    )


def _library_version() -> str:
    try:
        return importlib.metadata.version("reasoning-gym")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
