"""Which models answer in a chat: a run at one of its checkpoints, and what it is set against."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from whet.checkpoint.load import open_checkpoint
from whet.checkpoint.names import BEST, checkpoint_folder, list_steps
from whet.errors import RecipeError
from whet.inference.respond import Request, Responder, open_responder
from whet.recipe import load_recipe
from whet.recipe.schema import Recipe

BASE = "base"
_RECIPE = "recipe.yaml"


def find_recipe(name: str) -> Recipe | None:
    """The recipe in the folder that `name` is; None where there is none."""
    path = Path(name).expanduser() / _RECIPE
    return load_recipe(path) if path.is_file() else None


def find_checkpoint(run: Path, which: str) -> Path:
    """The folder of checkpoint `best`, `last` or a step of `run`, verified.

    RecipeError says which ones there are; StorageError when it is damaged.
    """
    steps = list_steps(run)
    if which == "best":
        folder = run / BEST
    elif which == "last":
        folder = checkpoint_folder(run, steps[0] if steps else 0)
    elif which.isdecimal():
        folder = checkpoint_folder(run, int(which))
    else:
        raise RecipeError(f"there is no checkpoint {which!r}", mend="name best, last or a step")
    if folder.is_dir():
        return open_checkpoint(folder).folder
    named = [*(["best"] if (run / BEST).is_dir() else []), *(["last"] if steps else []), *map(str, steps)]
    raise RecipeError(
        f"has no checkpoint {which}",
        where=str(run),
        mend=f"choose among {', '.join(named)}" if named else "leave --checkpoint out: the final weights answer",
    )


def open_models(request: Request, against: str | None) -> dict[str, Responder]:
    """Name -> model: what is compared with first, then what `request` names. `against`: `base` or another model.

    RecipeError, StorageError and HubError as of `open_responder`.
    """
    models = {}
    if against == BASE:
        models[BASE] = open_responder(replace(request, uses_base=True))
    elif against is not None:
        models[against] = open_responder(Request(name=against))
    name = display_name(request)
    return models | {name if name not in models else f"{name} (tuned)": open_responder(request)}


def display_name(request: Request) -> str:
    """The recipe's name where there is one, with the checkpoint; else the model's."""
    folder = Path(request.name).expanduser()
    if not folder.is_dir():
        return request.name
    resolved = folder.resolve()
    run_name = request.recipe.name if request.recipe else None
    if resolved.name.startswith("checkpoint-"):
        return f"{run_name or resolved.parent.name} {resolved.name}"
    return run_name or resolved.name


def shared_stop_strings(recipe: Recipe | None) -> tuple[str, ...]:
    """Texts that end an answer in every evaluation set of the run; none where the sets differ."""
    stops = {entry.stop for entry in recipe.evaluate} if recipe else set()
    return stops.pop() if len(stops) == 1 else ()
