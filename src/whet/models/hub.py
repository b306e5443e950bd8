"""A model on the hub becomes a verified folder in huggingface_hub's own cache.

One request lists the files of the revision with their hashes, the files are fetched by commit, and each is hashed:
huggingface_hub compares sizes only, so a changed byte of the right length would pass. Pickled weights are never
fetched. `HF_TOKEN`, `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they mean everywhere.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from whet import cache
from whet.errors import HubError, RecipeError
from whet.hub.errors import HubUnreachableError, Request
from whet.hub.fetch import fetch_files, list_files, verify
from whet.hub.settings import HubSettings, request_for

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

    from whet.hub.fetch import Info

_log = logging.getLogger(__name__)

_WANTED = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A revision of a hub model on this machine, every file of it verified."""

    folder: Path
    commit: str
    origin: str
    """the hub's host, or the cache when the hub was not asked"""


def fetch_snapshot(
    model_id: str, revision: str | None = None, settings: HubSettings | None = None, *, with_weights: bool = True
) -> Snapshot:
    """Fetch and verify `model_id` at `revision` (default: main); files that are in the cache are not fetched again.

    Without weights only configuration and tokenizer are fetched.
    HubError: refused, not found, not reachable or damaged, each with its own sentence; when the hub cannot be
    reached and the revision is in the cache, that is used and said. RecipeError: only pickled weights.
    """
    settings = settings or HubSettings()
    if settings.is_offline:
        return _offline(model_id, revision, settings, reason="HF_HUB_OFFLINE is set", with_weights=with_weights)
    request = request_for(model_id, revision, settings)
    try:
        info = list_files(request, settings)
    except HubUnreachableError as error:
        if _cached_folder(model_id, revision, settings, with_weights) is None:
            raise
        _log.warning("%s; the copy in the cache is used", error.what)
        return _offline(model_id, revision, settings, reason=error.what, with_weights=with_weights)
    return _download(request, info, settings, with_weights)


def _download(request: Request, info: Info, settings: HubSettings, with_weights: bool) -> Snapshot:
    files = _wanted_files(request, info, with_weights)
    commit = str(info.sha)
    missing = [file for file in files if not _cached_file(request.repo_id, file.rfilename, commit, settings)]
    _check_space(missing, settings)

    folder = fetch_files(request, files, commit, settings)[0].parent
    _note_revision(folder, request.revision or "main", commit)
    return Snapshot(folder=folder, commit=commit, origin=request.host)


def _wanted_files(request: Request, info: Info, with_weights: bool) -> list[RepoSibling]:
    """Configuration, tokenizer and safetensors at the top of the repository; nothing that is code or a pickle."""
    top = {file.rfilename: file for file in info.siblings or () if "/" not in file.rfilename}
    tensors = [name for name in top if name.endswith(".safetensors")]
    # Some repositories hold the same weights twice, as model-*.safetensors and as consolidated.safetensors.
    weights = [name for name in tensors if name.startswith("model")] or tensors
    if not weights:
        pickles = sorted(name for name in top if any(fnmatch(name, pattern) for pattern in _PICKLES))
        why = f"only pickled weights ({', '.join(pickles[:3])}), which can run code" if pickles else "no weights"
        raise RecipeError(
            f"{request.repo_id} has {why}; whet opens only safetensors",
            mend="choose a model (or a revision of it) with model.safetensors",
        )
    others = [name for name in top if any(fnmatch(name, pattern) for pattern in _WANTED)]
    if not others:
        raise RecipeError(f"{request.repo_id} has weights only, no config.json", mend="choose another model")
    return [top[name] for name in sorted(others + (weights if with_weights else []))]


def _offline(
    model_id: str, revision: str | None, settings: HubSettings, *, reason: str, with_weights: bool
) -> Snapshot:
    folder = _cached_folder(model_id, revision, settings, with_weights)
    if folder is None:
        raise HubError(
            f"{reason}, and {model_id} (revision {revision or 'main'}) is not in the cache",
            mend=f"run `whet prepare --model {model_id}` where the hub can be reached, with the same HF_HOME",
        )
    for path in sorted(folder.iterdir()):
        # huggingface_hub names each stored file by the hash that the hub gave for it
        stored_name = path.resolve().name
        if len(stored_name) in (40, 64) and set(stored_name) <= set("0123456789abcdef"):
            verify(path, stored_name, model_id)
    return Snapshot(folder=folder, commit=folder.name, origin="the hub cache of this machine")


def _cached_folder(model_id: str, revision: str | None, settings: HubSettings, with_weights: bool) -> Path | None:
    config = _cached_file(model_id, "config.json", revision, settings)
    if config is None or (with_weights and not any(config.parent.glob("*.safetensors"))):
        return None
    return config.parent


def _cached_file(model_id: str, name: str, revision: str | None, settings: HubSettings) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model_id, name, cache_dir=settings.cache_dir, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _note_revision(folder: Path, revision: str, commit: str) -> None:
    """Record which commit a branch or tag was, where huggingface_hub looks for it when it is offline."""
    refs = folder.parents[1] / "refs"
    path = refs / revision
    # a server that accepts any text as a revision must not choose where this is written
    if revision != commit and ".." not in path.parts and path.is_relative_to(refs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit, encoding="utf-8")


def _check_space(missing: list[RepoSibling], settings: HubSettings) -> None:
    from huggingface_hub import constants

    folder = Path(settings.cache_dir or constants.HF_HUB_CACHE)
    needed_bytes = sum(file.size or 0 for file in missing)
    if needed_bytes:
        cache.check_free_space(cache.make_folder(folder), needed_bytes)
