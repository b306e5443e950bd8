"""Run folders below a folder: how far each one is, what came out, its size, and what in it could be removed.

Nothing is removed here. Symbolic links are not followed, neither to folders nor in sizes, and only the first of the
folders named by the user may be one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from whet.json_text import read_object
from whet.report.metrics_log import finite
from whet.report.run_folder import folders_of_sets, read_document
from whet.types import Comparison
from whet.verdict import from_document, overall

State = Literal["running", "finished", "interrupted", "stopped"]
"""`stopped`: neither finished nor asked to stop; killed, or ended by an error"""
LeftoverKind = Literal["superseded", "unfinished write", "checkpoint", "old run"]

_RECIPE, _SUMMARY, _METRICS, _PLAN = "recipe.yaml", "summary.json", "metrics.jsonl", "run_plan.json"
_TAIL_BYTES = 1 << 16
_MAX_DEPTH = 6
_OLD_RUN = re.compile(r".+\.old-[0-9]+")
_SUPERSEDED = re.compile(r"superseded-[0-9]+")
_CHECKPOINT = re.compile(r"checkpoint-[0-9]+")
_DRAFT = re.compile(r"\..+\.tmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """One run as a list shows it. None: not known, or not there yet."""

    folder: Path
    state: State
    steps: int | None
    total_steps: int | None
    last_loss: float | None
    verdict: str | None
    """over all evaluation sets"""
    num_bytes: int
    changed: float
    """when its files last changed, in seconds since 1970"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something in a run folder (or an old run folder) that no run needs any more."""

    path: Path
    run: Path
    kind: LeftoverKind
    num_bytes: int


def is_run(folder: Path) -> bool:
    """Whether a run has begun in this folder: its recipe and its plan, steps or summary are there."""
    marks = (_PLAN, _METRICS, _SUMMARY)
    return (folder / _RECIPE).is_file() and any((folder / name).is_file() for name in marks)


def find_runs(root: Path) -> list[Path]:
    """`root` if it is a run folder, else all run folders below it, by name. A run folder is not looked into."""
    return [root] if is_run(root) else sorted(_runs_below(root, _MAX_DEPTH))


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    for entry in _entries(folder):
        if not entry.is_dir(follow_symlinks=False) or entry.name.startswith("."):
            continue
        path = folder / entry.name
        if is_run(path):
            yield path
        elif depth > 1:
            yield from _runs_below(path, depth - 1)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder; nothing where it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def describe_run(folder: Path, *, is_held: bool) -> RunLine:
    """`is_held`: whether a process holds the folder's lock."""
    summary, plan = read_document(folder / _SUMMARY), read_document(folder / _PLAN)
    last = _last_step(folder / _METRICS)
    steps = last.get("step", summary.get("steps"))
    return RunLine(
        folder=folder,
        state=state_of(summary, is_held=is_held),
        steps=steps if isinstance(steps, int) else None,
        total_steps=total if isinstance(total := plan.get("total_steps"), int) else None,
        last_loss=finite(last.get("loss", summary.get("last_train_loss"))),
        verdict=_verdict(folder / "evaluations"),
        num_bytes=size_of(folder),
        changed=_changed(folder),
    )


def is_finished(folder: Path) -> bool:
    """By its summary."""
    return read_document(folder / _SUMMARY).get("status") == "finished"


def state_of(summary: Mapping[str, Any], *, is_held: bool) -> State:
    """By its summary; `is_held`: whether a process holds the folder's lock."""
    if is_held:
        return "running"
    status = summary.get("status")
    return status if status in ("finished", "interrupted") else "stopped"


def _last_step(metrics: Path) -> dict[str, Any]:
    """The newest step of the log, from its end: a long log is not read as a whole."""
    try:
        handle = os.open(metrics, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return {}
    # a line may be cut at the beginning, or being written
    values = (read_object(line) or {} for line in reversed(lines))
    return next((value for value in values if value.get("kind") == "step"), {})


def _verdict(evaluations: Path) -> str | None:
    paths = [path / "comparison.json" for path in folders_of_sets(evaluations)]
    found = [each for path in paths if (each := _comparison(path)) is not None]
    return overall(found).verdict if found else None


def _comparison(path: Path) -> Comparison | None:
    try:
        return from_document(read_document(path))
    except ValueError:
        return None


def size_of(path: Path) -> int:
    """Bytes of a file or of all files below a folder; a link counts as itself, a file with two names once."""
    seen: set[tuple[int, int]] = set()

    def count(status: os.stat_result) -> int:
        is_new = (status.st_dev, status.st_ino) not in seen
        seen.add((status.st_dev, status.st_ino))
        return status.st_size if is_new else 0

    def below(folder: Path) -> Iterator[int]:
        for entry in _entries(folder):
            if entry.is_dir(follow_symlinks=False):
                yield from below(folder / entry.name)
            else:
                yield count(entry.stat(follow_symlinks=False))

    status = path.lstat()
    return sum(below(path)) if path.is_dir() and not path.is_symlink() else count(status)


def _changed(folder: Path) -> float:
    times = [path.lstat().st_mtime for name in (_METRICS, _SUMMARY, _RECIPE) if (path := folder / name).is_file()]
    return max(times, default=folder.lstat().st_mtime)


def find_leftovers(run: Path, *, checkpoints: bool = False, old_runs: bool = False) -> list[Leftover]:
    """What could be removed from a run folder: checkpoints that were set aside and drafts of writes that a crash cut
    off; with `checkpoints` those of a finished run (not the best one), with `old_runs` what --fresh moved aside."""
    if old_runs and _OLD_RUN.fullmatch(run.name):
        return [_leftover(run, run, "old run")]
    found = [_leftover(path, run, "unfinished write") for path in _drafts(run, 3)]
    for entry in _entries(run):
        if not entry.is_dir(follow_symlinks=False):
            continue
        if _SUPERSEDED.fullmatch(entry.name):
            found.append(_leftover(run / entry.name, run, "superseded"))
        elif checkpoints and _CHECKPOINT.fullmatch(entry.name) and is_finished(run):
            found.append(_leftover(run / entry.name, run, "checkpoint"))
    return sorted(found, key=lambda each: each.path)


def _drafts(folder: Path, depth: int) -> Iterator[Path]:
    for entry in _entries(folder):
        if entry.is_symlink():
            continue
        if _DRAFT.fullmatch(entry.name):
            yield folder / entry.name
        elif depth > 1 and entry.is_dir(follow_symlinks=False) and not _SUPERSEDED.fullmatch(entry.name):
            yield from _drafts(folder / entry.name, depth - 1)


def _leftover(path: Path, run: Path, kind: LeftoverKind) -> Leftover:
    return Leftover(path=path, run=run, kind=kind, num_bytes=size_of(path))
