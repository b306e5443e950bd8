"""A model on the hub becomes a verified folder in huggingface_hub's own cache.

One request lists the files of the revision with their hashes, the files are fetched by commit, and each is hashed:
huggingface_hub compares sizes only, so a changed byte of the right length would pass. Pickled weights are never
fetched. `HF_TOKEN`, `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they mean everywhere.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from whet import cache
from whet.errors import HubError, RecipeError
from whet.models import hub_errors

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_WANTED = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_NUM_PARALLEL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A revision of a hub model on this machine, every file of it verified."""

    folder: Path
    commit: str
    origin: str
    """the hub's host, or the cache when the hub was not asked"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """Where the hub is and how long it may take; the defaults come from the environment, read when constructed."""

    endpoint: str = field(default_factory=lambda: os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/"))
    cache_dir: Path | None = None
    """huggingface_hub's cache; None: `$HF_HUB_CACHE` or `$HF_HOME/hub`"""
    is_offline: bool = field(default_factory=lambda: _is_set("HF_HUB_OFFLINE") or _is_set("TRANSFORMERS_OFFLINE"))
    request_seconds: float = 10.0
    """longest silence of the server in one request"""
    listing_seconds: float = 30.0
    """longest time for the list of files, however slowly it trickles in"""


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}


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
    request = hub_errors.Request(
        model_id=model_id, revision=revision, endpoint=settings.endpoint, token_source=token_source()
    )
    warn_about_plain_http(request)
    try:
        info = _list_files(request, settings)
    except hub_errors.HubUnreachableError as error:
        if _cached_folder(model_id, revision, settings, with_weights) is None:
            raise
        _log.warning("%s; the copy in the cache is used", error.what)
        return _offline(model_id, revision, settings, reason=error.what, with_weights=with_weights)
    return _download(request, info, settings, with_weights)


def _download(request: hub_errors.Request, info: ModelInfo, settings: HubSettings, with_weights: bool) -> Snapshot:
    files = _wanted_files(request, info, with_weights)
    commit = str(info.sha)
    missing = [file for file in files if not _cached_file(request.model_id, file.rfilename, commit, settings)]
    _check_space(missing, settings)

    with ThreadPoolExecutor(_NUM_PARALLEL) as pool:
        fetches = [pool.submit(_fetch_file, request, file.rfilename, commit, settings) for file in files]
        try:
            paths = [fetch.result() for fetch in fetches]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # one failure is enough: no further file is begun
            raise
    for file, path in zip(files, paths, strict=True):
        _verify(path, file.lfs.sha256 if file.lfs else str(file.blob_id), request.model_id)
    folder = paths[0].parent
    _note_revision(folder, request.revision or "main", commit)
    return Snapshot(folder=folder, commit=commit, origin=request.host)


def _list_files(request: hub_errors.Request, settings: HubSettings) -> ModelInfo:
    from huggingface_hub import HfApi

    def ask() -> ModelInfo:
        return HfApi(endpoint=settings.endpoint, token=token() or False).model_info(
            request.model_id, revision=request.revision, files_metadata=True, timeout=settings.request_seconds
        )

    with hub_errors.explained(request):
        return _within(settings.listing_seconds, ask)


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """Result of `call`, or TimeoutError after `seconds`: a socket's own timeout starts anew with every byte."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except hub_errors.failures() as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(timeout=seconds)


def _wanted_files(request: hub_errors.Request, info: ModelInfo, with_weights: bool) -> list[RepoSibling]:
    """Configuration, tokenizer and safetensors at the top of the repository; nothing that is code or a pickle."""
    top = {file.rfilename: file for file in info.siblings or () if "/" not in file.rfilename}
    tensors = [name for name in top if name.endswith(".safetensors")]
    # Some repositories hold the same weights twice, as model-*.safetensors and as consolidated.safetensors.
    weights = [name for name in tensors if name.startswith("model")] or tensors
    if not weights:
        pickles = sorted(name for name in top if any(fnmatch(name, pattern) for pattern in _PICKLES))
        why = f"only pickled weights ({', '.join(pickles[:3])}), which can run code" if pickles else "no weights"
        raise RecipeError(
            f"{request.model_id} has {why}; whet opens only safetensors",
            mend="choose a model (or a revision of it) with model.safetensors",
        )
    others = [name for name in top if any(fnmatch(name, pattern) for pattern in _WANTED)]
    if not others:
        raise RecipeError(f"{request.model_id} has weights only, no config.json", mend="choose another model")
    return [top[name] for name in sorted(others + (weights if with_weights else []))]


def _fetch_file(request: hub_errors.Request, name: str, commit: str, settings: HubSettings) -> Path:
    from huggingface_hub import hf_hub_download

    with hub_errors.explained(request, file=name):
        return Path(
            hf_hub_download(
                request.model_id,
                name,
                revision=commit,
                cache_dir=settings.cache_dir,
                endpoint=settings.endpoint,
                etag_timeout=settings.request_seconds,
                token=token() or False,
            )
        )


def _verify(path: Path, expected: str, model_id: str) -> None:
    """Compare a file with the hub's hash: SHA-256 of large files, git's SHA-1 of small ones. A bad one is removed."""
    found = cache.sha256_of(path) if len(expected) == 64 else _git_sha1(path)
    if found == expected:
        return
    path.resolve().unlink()
    path.unlink(missing_ok=True)
    raise HubError(
        f"{path.name} of {model_id} is damaged: its hash is {found[:16]}..., the hub's is {expected[:16]}...",
        mend="the damaged file was removed; run the same command again to fetch it anew",
    )


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


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
            _verify(path, stored_name, model_id)
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
    if revision != commit:
        path = folder.parents[1] / "refs" / revision
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit, encoding="utf-8")


def _check_space(missing: list[RepoSibling], settings: HubSettings) -> None:
    from huggingface_hub import constants

    folder = Path(settings.cache_dir or constants.HF_HUB_CACHE)
    needed_bytes = sum(file.size or 0 for file in missing)
    if needed_bytes:
        cache.check_free_space(cache.make_folder(folder), needed_bytes)


def token() -> str | None:
    from huggingface_hub import get_token

    return None if _is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") else get_token()


def token_source() -> str | None:
    """Where the token comes from, in words; never the token."""
    if token() is None:
        return None
    name = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None)
    return f"the environment variable {name}" if name else "the token file of `hf auth login`"


def warn_about_plain_http(request: hub_errors.Request) -> None:
    parts = urlsplit(request.endpoint)
    if request.token_source and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        _log.warning(
            "HF_ENDPOINT is plain http: the token from %s travels unencrypted to %s; use https, or unset the token",
            request.token_source,
            parts.hostname,
        )
