"""The run folder: checked before anything heavy is loaded, locked, and asked what an earlier run left in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whet.atomic import write_text
from whet.checkpoint.load import list_steps
from whet.errors import RecipeError, StorageError
from whet.recipe import dump_recipe, load_recipe
from whet.recipe.schema import Recipe

RECIPE = "recipe.yaml"
SUMMARY = "summary.json"
# These may change between an interrupted run and its continuation: no weight depends on them.
FREE_TO_CHANGE = ("evaluate", "tracking", "train.keep", "train.threads", "output", "name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the folder holds already."""

    is_finished: bool
    has_checkpoints: bool
    summary: dict[str, Any]


def check_writable(folder: Path, *, needed_bytes: int) -> None:
    """Create `folder` and prove that it takes files and has room; StorageError otherwise. Takes milliseconds."""
    probe = folder / f".probe.{os.getpid()}"
    try:
        if folder.is_symlink():
            raise StorageError("is a symbolic link", where=str(folder), mend="name the real folder as `output`")
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"whet")
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot be written ({error.strerror})", where=str(folder), mend="choose another `output`"
        ) from error
    finally:
        # also after a full disk, which lets the file be created but not filled
        if probe.parent.is_dir():
            probe.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise StorageError(
            f"too little disk: the run needs {needed_bytes / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free",
            where=str(folder),
            mend="free some space, choose another `output`, or keep fewer checkpoints (train.keep=1)",
        )


def look(folder: Path) -> Found:
    """What an earlier run left in `folder`."""
    summary: dict[str, Any] = {}
    if (folder / SUMMARY).is_file():
        try:
            summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        except ValueError as error:
            raise StorageError(f"cannot be read: {error}", where=str(folder / SUMMARY), mend="remove it") from error
    return Found(
        is_finished=summary.get("status") == "finished",
        has_checkpoints=bool(list_steps(folder)),
        summary=summary,
    )


def set_aside(folder: Path) -> Path | None:
    """`--fresh`: move an earlier run out of the way (nothing is deleted); returns where it went."""
    if not folder.is_dir() or not any(p.name != ".lock" for p in folder.iterdir()):
        return None
    number = 1
    while (target := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(target)
    return target


def refuse_other_recipe(folder: Path, recipe: Recipe) -> None:
    """RecipeError with the differences when `folder` was made with a recipe that trains other weights."""
    path = folder / RECIPE
    if not path.is_file():
        return
    before, now = _flat(asdict(load_recipe(path))), _flat(asdict(recipe))
    changed = [
        f"  {key}: {before.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(key == f or key.startswith(f"{f}.") for f in FREE_TO_CHANGE)
    ]
    if changed:
        raise RecipeError(
            "this folder holds a run with other settings:\n" + "\n".join(changed),
            where=str(folder),
            mend="undo the change, choose another `output`, or start anew with --fresh (the old run is moved aside)",
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, child in items:
        flat |= _flat(child, f"{prefix}.{key}" if prefix else str(key))
    return flat


def write_recipe(folder: Path, recipe: Recipe) -> str:
    """Keep the recipe with the run; returns its text."""
    text = dump_recipe(recipe)
    write_text(folder / RECIPE, text)
    return text


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """One JSON document, whole or not at all."""
    write_text(path, json.dumps(document, indent=1) + "\n")
