"""The run folder: checked before anything heavy is loaded, locked, and asked what an earlier run left in it.

Free of torch: the command line calls `check_writable` before it spends seconds on importing torch.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whet.atomic import remove, write_text
from whet.checkpoint.lock import NAME as LOCK
from whet.checkpoint.lock import locked
from whet.checkpoint.manifest import NAME as MANIFEST
from whet.errors import RecipeError, StorageError
from whet.estimate.disk import run_bytes
from whet.models.families import find_shape, num_adapter_parameters, num_parameters
from whet.recipe import load_recipe
from whet.recipe.measured import best_name, measured_names
from whet.recipe.schema import Recipe

RECIPE = "recipe.yaml"
SUMMARY = "summary.json"
# These may change between an interrupted run and its continuation: no weight depends on them. So may `evaluate`,
# but for the set that decides what is best.
FREE_TO_CHANGE = (
    "tracking", "train.keep", "train.threads", "output", "name",
    # how a step is computed, up to rounding
    "batch.micro_size", "train.memory_gb", "train.recompute", "train.loss_head", "train.compile", "parallel",
)  # fmt: skip
_DECIDES = ("source", "max_new_tokens", "temperature", "top_p", "stop", "judge", "every", "max_rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the folder holds already."""

    is_finished: bool
    summary: dict[str, Any]


def needed_bytes(recipe: Recipe) -> int:
    """Disk that the run folder will need; 0 when the model's shape is not known before it is fetched."""
    shape = find_shape(recipe.model.id)
    if shape is None:
        return 0
    num_total, method = num_parameters(shape), recipe.adapter.method
    num_trainable = num_in_file = num_total
    if method != "none":
        num_trainable, num_in_file = num_adapter_parameters(shape, recipe.adapter)
    return run_bytes(num_trainable, num_total, method, keep=recipe.train.keep, num_in_file=num_in_file)


def check_writable(folder: Path, *, needed_bytes: int) -> None:
    """Create `folder` and prove that it takes files and has room; StorageError otherwise. Takes milliseconds."""
    probe = folder / f".probe.{os.getpid()}"
    try:
        if folder.is_symlink():
            raise StorageError("is a symbolic link", where=str(folder), mend="name the real folder as `output`")
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"whet")
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
        with suppress(OSError, UnicodeEncodeError):
            probe.unlink()
    refuse_no_room(folder, on=folder, needed_bytes=needed_bytes)


def refuse_no_room(folder: Path, *, on: Path, needed_bytes: int) -> None:
    """StorageError where the disk of `on`, which exists, has too little room for a run in `folder`."""
    free = shutil.disk_usage(on).free
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
    is_finished = summary.get("status") == "finished" and _has_final_files(folder)
    return Found(is_finished=is_finished, summary=summary)


def _has_final_files(folder: Path) -> bool:
    """Whether every file that the finished run listed in its manifest is still there."""
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError):
        return False
    return all((folder / name).is_file() for name in listed)


def set_aside(folder: Path) -> Path | None:
    """`--fresh`: move an earlier run out of the way (nothing is deleted); returns where it went.

    StorageError when that run is still working.
    """
    if not any(p.name != LOCK for p in folder.iterdir()):
        return None
    number = 1
    while (target := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    try:
        with locked(folder):
            folder.rename(target)
            folder.mkdir()
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot be moved to {target.name} ({error.strerror})",
            where=str(folder),
            mend="move it yourself, or choose another `output`",
        ) from error
    return target


def refuse_other_recipe(folder: Path, recipe: Recipe) -> None:
    """RecipeError with the differences when `folder` was made with a recipe that trains other weights."""
    path = folder / RECIPE
    if not path.is_file():
        return
    before, now = (_flat(asdict(each) | {"evaluate": _deciding_set(each)}) for each in (load_recipe(path), recipe))
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


def describe_other_ranks(folder: Path, recipe: Recipe) -> str | None:
    """What the section `parallel` said when the run in `folder` began or was last continued, where it differs now."""
    path = folder / RECIPE
    if not path.is_file():
        return None
    before, now = (asdict(each.parallel) for each in (load_recipe(path), recipe))
    changed = [f"parallel.{key} {before[key]} then, {now[key]} now" for key in now if before[key] != now[key]]
    return f"continuing on other ranks: {', '.join(changed)}" if changed else None


def _deciding_set(recipe: Recipe) -> dict[str, Any]:
    """What decides the values of `train.best_metric`, where an evaluation set gives them."""
    name = best_name(recipe)
    dataset = measured_names(recipe)[name].dataset if name is not None else None
    return {
        entry.name: {key: value for key, value in asdict(entry).items() if key in _DECIDES}
        for entry in recipe.evaluate
        if entry.name == dataset
    }


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


def begin(folder: Path, recipe_yaml: str) -> None:
    """Keep the recipe with the run, which from now on is not finished."""
    write_text(folder / RECIPE, recipe_yaml)
    remove(folder / SUMMARY)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """One JSON document, whole or not at all."""
    write_text(path, json.dumps(document, indent=1) + "\n")
