"""A source of the recipe -> examples: local file, hub dataset or generated problems, with slice and account.

A slice `train[500:1000]` counts rows from 0, blank lines aside, before anything is left out. A local file is one
split; it answers to `train`, to `all` and to its own stem (`test.jsonl` to `test[:100]`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from whet.data import rows as row_reader
from whet.data.datasets import answer_line, generated
from whet.data.files import READERS, RawRow, read_rows
from whet.data.hub import read_hub_rows
from whet.errors import DataError, RecipeError
from whet.recipe.schema import Source
from whet.types import DroppedRow, Example, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRows:
    """The examples of one source with the account of its rows: len(examples) + len(dropped) = num_rows."""

    examples: tuple[Example, ...]
    dropped: tuple[DroppedRow, ...]
    num_rows: int
    """rows of the slice, before anything was left out"""
    num_duplicates: int
    """rows that say the same as an earlier one; they are kept"""
    fingerprint: str
    """SHA-256 over the example ids in order: equal content in equal order gives equal fingerprints"""
    found_format: str
    """name in `data.rows.FORMATS`, or `generated`"""
    commit: str | None = None
    """commit of a hub dataset"""

    def describe(self, source: str) -> str:
        """One sentence for the user."""
        text = f"{source}: {len(self.examples)} rows, read as {self.found_format}"
        if self.commit:
            text += f", commit {self.commit[:12]}"
        if self.num_duplicates:
            text += f"; {self.num_duplicates} repeat an earlier row (kept)"
        if self.dropped:
            text += f"; {len(self.dropped)} bad rows left out"
        return text


class Split(NamedTuple):
    """A split name with its slice; rows `start` to `stop`, None for the end."""

    name: str
    start: int
    stop: int | None


def load_examples(source: Source, *, seed: int, base_folder: Path, skip_bad_rows: bool = False) -> LoadedRows:
    """The rows of one source as examples with unique, stable ids.

    `seed` matters for generated problems only (`options: {seed: 7}` in the source overrides it). Relative files
    start at `base_folder`. Raises DataError (bad rows), HubError (not fetched) or RecipeError (impossible source).
    """
    if source.source.startswith(generated.PREFIX):
        return _load_generated(source, seed)
    split = parse_split(source.split, where=source.source)
    commit = None
    raw_rows: Sequence[RawRow]
    if _is_file(source.source, base_folder):
        path = base_folder / Path(source.source).expanduser()
        if split.name not in ("train", "all", path.stem):
            raise RecipeError(
                f"a file is one split, it has no {split.name!r}",
                where=source.source,
                mend="write `train` (or a slice, `train[:500]`), or name another file",
            )
        raw_rows = read_rows(path, source.source)
    else:
        raw_rows, commit = read_hub_rows(
            source.source, split=split.name, config=source.config, revision=source.revision
        )
    raw_rows = _take(raw_rows, split, source)
    format_name = source.format
    if format_name == "auto":
        format_name = row_reader.detect_format(raw_rows, source.source)  # type: ignore[assignment]
    additions = row_reader.Additions(system=source.system, instruction=source.instruction)
    examples, dropped = row_reader.read_examples(
        raw_rows, format_name=format_name, additions=additions, where=source.source, skip_bad_rows=skip_bad_rows
    )
    return _account(examples, dropped, format_name, commit)


def _is_file(name: str, base_folder: Path) -> bool:
    looks_like_file = Path(name).suffix in READERS or name.startswith((".", "/", "~")) or name.count("/") > 1
    return looks_like_file or (base_folder / name).exists()


def parse_split(text: str, *, where: str) -> Split:
    """`train`, `train[:500]`, `train[500:1000]`, `train[500:]` -> name and row numbers."""
    match = re.fullmatch(r"([\w.-]+)(?:\[(\d*):(\d*)\])?", text)
    if match is None:
        raise RecipeError(
            f"split {text!r} is not understood",
            where=where,
            mend="write a name, or a name with row numbers as in train[:500] or train[500:1000]",
        )
    name, start, stop = match[1], int(match[2] or 0), int(match[3]) if match[3] else None
    if stop is not None and stop <= start:
        raise RecipeError(f"split {text!r} takes no rows", where=where, mend="the second number must be the larger one")
    return Split(name, start, stop)


def _take(raw_rows: Sequence[RawRow], split: Split, source: Source) -> Sequence[RawRow]:
    taken = raw_rows[split.start : split.stop][: source.rows]
    if not taken:
        raise DataError(
            f"split {source.split!r} takes no rows: there are {len(raw_rows)}",
            where=source.source,
            mend=f"start the slice below {len(raw_rows)}",
        )
    return taken


def _load_generated(source: Source, seed: int) -> LoadedRows:
    split = parse_split(source.split, where=source.source)
    side: Literal["train", "test"] = "test" if split.name == "test" else "train"
    if split.name != side:
        raise RecipeError(
            f"generated problems have no split {split.name!r}",
            where=source.source,
            mend="write train or test; validation rows are e.g. train[2000:2200]",
        )
    stops = [stop for stop in (split.stop, source.rows and split.start + source.rows) if stop]
    if not stops:
        raise RecipeError("how many problems?", where=source.source, mend="add `rows: 1000` to this source")
    options = {key: value for key, value in source.options.items() if key != "seed"}
    problems = generated.generate_rows(
        source.source.removeprefix(generated.PREFIX), split=side, start=split.start, stop=min(stops),
        seed=int(source.options.get("seed", seed)), options=options,
    )  # fmt: skip
    instruction = answer_line.INSTRUCTION if source.instruction is None else source.instruction
    additions = row_reader.Additions(system=source.system, instruction=instruction)
    examples = [
        row_reader.build_example(
            [
                Message(role="user", content=problem.question),
                Message(role="assistant", content=problem.answer, is_taught=True),
            ],
            origin=problem.origin,
            additions=additions,
            task="generated",
            golds=(problem.gold,),
            parameters=problem.key,
        )
        for problem in problems
    ]
    return _account(row_reader.number_ids(examples), (), "generated", None)


def _account(
    examples: tuple[Example, ...], dropped: tuple[DroppedRow, ...], found_format: str, commit: str | None
) -> LoadedRows:
    contents = Counter(example.id.partition("-")[0] for example in examples)
    return LoadedRows(
        examples=examples,
        dropped=dropped,
        num_rows=len(examples) + len(dropped),
        num_duplicates=len(examples) - len(contents),
        fingerprint=hashlib.sha256("\n".join(example.id for example in examples).encode()).hexdigest(),
        found_format=found_format,
        commit=commit,
    )
