"""A run folder as it was typed, checked before anything heavy is loaded; a slip is answered with the nearest run."""

from __future__ import annotations

import difflib
from pathlib import Path

from whet.errors import StorageError

_LIST = "whet runs list shows the runs there are"


def check_run(folder: Path) -> Path:
    """`folder`, if a recipe or stored answers lie in it; else StorageError with what would do."""
    if not folder.is_dir():
        raise StorageError("no such folder", where=str(folder), mend=_nearest(folder))
    if not (folder / "recipe.yaml").is_file() and not (folder / "evaluations").is_dir():
        raise StorageError("is no run folder: no recipe.yaml lies in it", where=str(folder), mend=_below(folder))
    return folder


def _nearest(folder: Path) -> str:
    parent = folder.parent
    names = sorted(path.name for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
    near = difflib.get_close_matches(folder.name, names, n=1, cutoff=0.6)
    return f"did you mean {parent / near[0]}?" if near else _LIST


def _below(folder: Path) -> str:
    from whet.report.run_list import find_runs

    found = ", ".join(str(run) for run in find_runs(folder)[:3])
    return f"below it are {found}" if found else _LIST
