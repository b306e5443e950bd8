"""The first question of `whet init`, what data: a file or a named dataset -> the sets of a recipe and their files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from whet.errors import DataError

if TYPE_CHECKING:
    from whet.data.first_look import FirstLook, Row
    from whet.recipe.draft import AnswerKind, Sets

MOST_COPIED_BYTES = 200_000_000
"""of a file whose rows are divided into files of their own; of a larger one the first rows are held out"""
_ROWS_OF_A_LARGE_FILE = 2_000
_HELD_OUT_OF_LARGE, _VALIDATION_OF_LARGE = 400, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """The data of a recipe to be written."""

    name: str
    """for the recipe, its run folder and its evaluation set"""
    sets: Sets
    kind: AnswerKind
    longest_row_bytes: int
    longest_answer_bytes: int
    choices: tuple[str, ...] = ()
    wants_bare_number: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    """file -> content, to be written beside the recipe"""
    notes: tuple[str, ...] = ()
    """what was found in the rows, as sentences"""


def find_material(
    data: str, *, recipe: Path | None, seed: int, question: str | None, answer: str | None, skips_bad_rows: bool
) -> Material:
    """The sets of `data`, a file or a name; rows of a file are divided into files beside `recipe`, which names all.

    DataError says what was seen in a file that cannot be used.
    """
    from whet.data.named_sets import NAMED_SETS, generated_set

    if data in NAMED_SETS or data.startswith("reasoning-gym:"):
        found = NAMED_SETS[data] if data in NAMED_SETS else generated_set(data)
        return Material(
            name=slug(recipe.stem if recipe else data.rpartition(":")[2]),
            sets=found.sets,
            kind=found.kind,
            longest_row_bytes=found.longest_row_bytes,
            longest_answer_bytes=found.longest_answer_bytes,
        )
    if not Path(data).expanduser().exists() and Path(data).suffix == "":
        names = ", ".join([*NAMED_SETS, "reasoning-gym:TASK"])
        raise DataError("is neither a file nor a dataset that whet init knows", where=data,
                        mend=f"name a file (.csv, .tsv, .jsonl, .json, .parquet) or one of {names}; another "
                        "dataset of the hub stands in a recipe as `source: OWNER/NAME`")  # fmt: skip
    return _of_file(data, recipe, seed, question, answer, skips_bad_rows=skips_bad_rows)


def slug(text: str) -> str:
    """A name for files and folders out of any text."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:60] or "rows"


def _of_file(
    data: str, recipe: Path | None, seed: int, question: str | None, answer: str | None, *, skips_bad_rows: bool
) -> Material:
    from whet.data.answer_kinds import look_at_answers
    from whet.data.first_look import look_at

    path = Path(data).expanduser()
    is_large = path.is_file() and path.stat().st_size > MOST_COPIED_BYTES
    look = look_at(data, question=question, answer=answer, most_rows=_ROWS_OF_A_LARGE_FILE if is_large else None)
    _refuse_bad_rows(look, skips_bad_rows=skips_bad_rows)
    name = slug((recipe or path).stem)
    folder = recipe.parent if recipe else Path()
    sets, files = _slices(look) if is_large else _parts(look, folder / f"{name}-data", seed)
    examples = [row.example for row in look.rows]
    answers = look_at_answers(examples)
    return Material(
        name=name,
        sets=sets,
        kind=answers.kind,
        longest_row_bytes=max(_num_bytes(*(message.content for message in each.messages)) for each in examples),
        longest_answer_bytes=max(_num_bytes(each.messages[-1].content) for each in examples),
        choices=answers.choices,
        wants_bare_number=answers.kind == "number" and not answers.has_solutions,
        files=files,
        notes=look.notes,
    )


def _refuse_bad_rows(look: FirstLook, *, skips_bad_rows: bool) -> None:
    from whet.data.rows import list_faults

    faults = [row for row in look.bad if row.kind == "bad"]
    if (faults and not skips_bad_rows) or not look.rows:
        what = list_faults(faults, len(look.rows) + len(look.bad))
        mend = "correct these rows, or leave them out with --skip-bad-rows"
        raise DataError(what, where=look.name, mend=mend if look.rows else "correct the rows")


def _parts(look: FirstLook, folder: Path, seed: int) -> tuple[Sets, dict[str, str]]:
    """Three files of rows drawn at random; no question is in two of them."""
    from whet.data.divide import divide
    from whet.data.row_keys import question_key
    from whet.recipe.draft import Sets

    parts = divide([question_key(row.example) for row in look.rows], seed=seed, where=look.name)
    files: dict[str, str] = {}
    sources: dict[str, dict[str, object]] = {}
    for name, numbers in (("train", parts.train), ("validation", parts.validation), ("held_out", parts.held_out)):
        file = (folder / f"{name}.jsonl").as_posix()
        files[file] = _lines([look.rows[number] for number in numbers])
        sources[name] = {"source": file, "split": "all", **_format(look)}
    left_out = f" ({len(look.bad):,} unusable ones left out)" if look.bad else ""
    story = (
        f"{len(look.rows):,} rows of {look.name}{left_out}, drawn with seed {seed}, no question in two parts: "
        f"{len(parts.train):,} to train on, {len(parts.validation):,} to choose the best weights by, "
        f"{len(parts.held_out):,} that the verdict rests on"
    )
    sets = Sets(
        train=sources["train"],
        validation=sources["validation"],
        held_out=sources["held_out"],
        num_train=len(parts.train),
        story=story,
    )
    return sets, files


def _slices(look: FirstLook) -> tuple[Sets, dict[str, str]]:
    """The first rows of a large file are held out, and nothing is copied."""
    from whet.recipe.draft import Sets

    def rows(start: int, stop: int | None) -> dict[str, object]:
        return {"source": look.name, "split": f"all[{start or ''}:{stop or ''}]", **_format(look)}

    middle = _HELD_OUT_OF_LARGE + _VALIDATION_OF_LARGE
    story = (
        f"{look.name} is large: its first {_HELD_OUT_OF_LARGE} rows are held out and the next {_VALIDATION_OF_LARGE} "
        "choose the best weights; shuffle the file if it is sorted"
    )
    sets = Sets(
        train=rows(middle, None),
        validation=rows(_HELD_OUT_OF_LARGE, middle),
        held_out=rows(0, _HELD_OUT_OF_LARGE),
        num_train=None,
        story=story,
        may_share_rows=True,
    )
    return sets, {}


def _format(look: FirstLook) -> dict[str, object]:
    return {"format": look.format_name, **({"fields": look.fields} if look.fields else {})}


def _lines(rows: Sequence[Row]) -> str:
    # what JSON does not know (a date in a Parquet file) stands in columns that no format reads as text
    return "".join(json.dumps(dict(row.value), ensure_ascii=False, default=str) + "\n" for row in rows)


def _num_bytes(*texts: str) -> int:
    return sum(len(text.encode()) for text in texts)
