"""The run folder: checked before anything heavy is loaded, locked, and asked what an earlier run left in it.

Free of torch: the command line calls `check_writable` before it spends seconds on importing torch.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whet import cache
from whet.atomic import remove, write_text
from whet.checkpoint.lock import NAME as LOCK
from whet.checkpoint.lock import locked
from whet.checkpoint.manifest import NAME as MANIFEST
from whet.checkpoint.names import list_steps
from whet.errors import RecipeError, StorageError
from whet.json_text import read_json
from whet.models.families import find_shape
from whet.parallel.status import FOLDER as STATUS_FOLDER
from whet.recipe import load_recipe
from whet.recipe.schema import Recipe
from whet.train.changes import Change, recipe_changes, settle
from whet.train.disk_need import disk_need

RECIPE = "recipe.yaml"
SUMMARY = "summary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the folder holds already."""

    is_finished: bool
    summary: dict[str, Any]
    fault: str = ""
    """what is wrong with the final files of a run that had finished"""


def needed_bytes(recipe: Recipe) -> int:
    """Disk that the run folder will need; 0 when the model's shape is not known before it is fetched."""
    shape = find_shape(recipe.model.id)
    return 0 if shape is None else disk_need(recipe, shape).run_bytes


def check_writable(folder: Path, *, needed_bytes: int) -> None:
    """Create `folder` and prove that it takes files and has room; StorageError otherwise. Takes milliseconds."""
    probe: str | None = None
    try:
        if folder.is_symlink():
            raise StorageError("is a symbolic link", where=str(folder), mend="name the real folder as `output`")
        folder.mkdir(parents=True, exist_ok=True)
        refuse_links(folder)
        descriptor, probe = tempfile.mkstemp(prefix=".probe.", dir=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"whet")
    except UnicodeEncodeError as error:
        raise StorageError(
            "the locale of this session cannot write this name",
            where=ascii(str(folder)),
            mend="set PYTHONUTF8=1, or choose an `output` of plain letters",
        ) from error
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot be written ({error.strerror})", where=str(folder), mend="choose another `output`"
        ) from error
    finally:
        # also after a full disk, which lets the file be created but not filled
        with suppress(OSError):
            if probe is not None:
                Path(probe).unlink()
    refuse_no_room(folder, on=folder, needed_bytes=needed_bytes)


def refuse_links(folder: Path) -> None:
    """StorageError where something in the run folder is a symbolic link: writing there would change another's file."""
    for place in (folder, folder / STATUS_FOLDER):
        links = [entry.path for entry in os.scandir(place) if entry.is_symlink()] if place.is_dir() else []
        if links:
            raise StorageError(
                "is a symbolic link, which is not followed",
                where=min(links),
                mend="remove the link, or choose another `output`",
            )


def refuse_no_room(folder: Path, *, on: Path, needed_bytes: int) -> None:
    """StorageError where the disk of `on`, which exists, has too little room for a run in `folder`."""
    free = shutil.disk_usage(on).free
    if free < needed_bytes:
        raise StorageError(
            f"too little disk: the run needs {needed_bytes / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free",
            where=str(folder),
            mend="free some space, choose another `output`, or keep fewer checkpoints (train.keep=1)",
        )


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json, empty where there is none yet; StorageError when it is damaged."""
    if not (folder / SUMMARY).is_file():
        return {}
    try:
        return dict(read_json((folder / SUMMARY).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(
            f"cannot be read: {error}",
            where=str(folder / SUMMARY),
            mend="remove it and give the same command again: it is written anew from the newest checkpoint",
        ) from error


def look(folder: Path) -> Found:
    """What an earlier run left in `folder`, its final files held against their sums."""
    summary = read_summary(folder)
    if summary.get("status") != "finished":
        return Found(is_finished=False, summary=summary)
    fault = _fault_of_final_files(folder)
    return Found(is_finished=not fault, summary=summary, fault=fault)


def _fault_of_final_files(folder: Path) -> str:
    """The first file of the finished run's manifest that is not what was written; empty where all are."""
    if not (folder / RECIPE).is_file():
        return f"{RECIPE} is missing"
    try:
        listed = {str(name): digest for name, digest in read_json((folder / MANIFEST).read_bytes())["sha256"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is missing or damaged"
    for name, digest in listed.items():
        if Path(name).name != name or not (folder / name).is_file():
            return f"{name} is missing"
        if cache.sha256_of(folder / name) != digest:
            return f"{name} was changed or damaged (SHA-256 differs)"
    return ""


def tell_fault(folder: Path, found: Found, say: Callable[[str], None]) -> None:
    """Say what became of the final files of a run that had finished, before they are written again.

    StorageError when there is no checkpoint to write them from: the run would train anew from its beginning.
    """
    if not found.fault:
        return
    if not list_steps(folder):
        raise StorageError(
            f"the run had finished, but {found.fault}, and no checkpoint is left to write it again",
            where=str(folder),
            mend="restore the file, or start anew with --fresh (what is there is moved aside)",
        )
    say(f"the run had finished, but {found.fault}: the final files are written again from the newest checkpoint")


def set_aside(folder: Path) -> Path | None:
    """`--fresh`: move an earlier run out of the way (nothing is deleted); returns where it went.

    StorageError when that run is still working.
    """
    if not any(p.name != LOCK for p in folder.iterdir()):
        return None
    number = 1
    try:
        while (target := folder.with_name(f"{folder.name}.old-{number}")).exists():
            number += 1
        with locked(folder):
            folder.rename(target)
            folder.mkdir()
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot be moved to {folder.name}.old-{number} ({error.strerror})",
            where=str(folder),
            mend="move it yourself, or choose another `output`",
        ) from error
    return target


def refuse_other_recipe(folder: Path, recipe: Recipe, *, is_accepting: bool = False) -> None:
    """RecipeError with the differences when `folder` was made with a recipe that trains other weights.

    Those that are accepted pass here; they are told and recorded where the run goes on (train/inputs.py).
    """
    settle(changed_settings(folder, recipe), where=str(folder / RECIPE), is_accepting=is_accepting)


def changed_settings(folder: Path, recipe: Recipe) -> list[Change]:
    """Settings on which weights depend that were others when the run in `folder` began or was last continued."""
    path = folder / RECIPE
    if not path.is_file():
        return []
    try:
        before = load_recipe(path)
    except RecipeError as error:
        raise StorageError(
            f"the recipe that the run was made with cannot be read: {error.what}",
            where=str(path),
            mend="copy recipe.yaml from the run's newest checkpoint to its place, or start anew with --fresh",
        ) from error
    return recipe_changes(before, recipe)


def describe_other_ranks(folder: Path, recipe: Recipe) -> str | None:
    """What the section `parallel` said when the run in `folder` began or was last continued, where it differs now."""
    path = folder / RECIPE
    if not path.is_file():
        return None
    before, now = (asdict(each.parallel) for each in (load_recipe(path), recipe))
    changed = [f"parallel.{key} {before[key]} then, {now[key]} now" for key in now if before[key] != now[key]]
    return f"continuing on other ranks: {', '.join(changed)}" if changed else None


def begin(folder: Path, recipe_yaml: str) -> None:
    """Keep the recipe with the run, which from now on is not finished."""
    write_text(folder / RECIPE, recipe_yaml)
    remove(folder / SUMMARY)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """One JSON document, whole or not at all."""
    write_text(path, json.dumps(document, indent=1) + "\n")
