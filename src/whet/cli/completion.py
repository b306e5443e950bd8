"""What the shell offers after TAB where a recipe or a run is wanted: paths, whole, so that one TAB is enough.

Where nothing is found, the shell offers its own file names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

_DEPTH = 3
"""`runs/demo/recipe.yaml`"""
_MOST = 500
_NOT_OURS = ("venv", "node_modules", "__pycache__", "site-packages")


def recipe_paths(incomplete: str) -> list[str]:
    """YAML files that begin as typed."""
    return _offered(incomplete, lambda entry: entry.name.endswith((".yaml", ".yml")) and entry.is_file())


def run_paths(incomplete: str) -> list[str]:
    """Folders with a recipe and a plan in them that begin as typed."""
    from whet.report.run_list import is_run

    return _offered(incomplete, lambda entry: entry.is_dir(follow_symlinks=False) and is_run(Path(entry.path)))


def recipe_or_run_paths(incomplete: str) -> list[str]:
    """Both."""
    return [*run_paths(incomplete), *recipe_paths(incomplete)]


def _offered(incomplete: str, is_wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    """Paths below the folder that has been typed so far, written as it was typed."""
    typed = incomplete[: incomplete.rfind("/") + 1]
    found = (typed + path for path in _below(Path(typed or "."), "", is_wanted, _DEPTH))
    return sorted(path for path in found if path.startswith(incomplete))[:_MOST]


def _below(folder: Path, prefix: str, is_wanted: Callable[[os.DirEntry[str]], bool], depth: int) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if is_wanted(entry):
            yield prefix + entry.name
        elif depth > 1 and entry.name not in _NOT_OURS and entry.is_dir(follow_symlinks=False):
            yield from _below(folder / entry.name, f"{prefix}{entry.name}/", is_wanted, depth - 1)
