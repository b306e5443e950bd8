"""Files of one commit, received side by side and hashed: huggingface_hub compares sizes only, so a changed byte of the
right length would pass."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from whet import cache
from whet.errors import HubError
from whet.hub import errors, patience
from whet.hub.settings import HubSettings, token

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo, ModelInfo, RepoSibling

    Info: TypeAlias = ModelInfo | DatasetInfo

_NUM_PARALLEL = 4


def list_files(request: errors.Request, settings: HubSettings) -> Info:
    """The commit of the revision, and its files with sizes and hashes. HubError for every way it can fail."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=settings.endpoint, token=token() or False)
    ask = api.model_info if request.kind == "model" else api.dataset_info

    def listing() -> Info:
        return ask(request.repo_id, revision=request.revision, files_metadata=True, timeout=settings.request_seconds)

    with errors.explained(request):
        return patience.within(settings.listing_seconds, listing)


def fetch_files(
    request: errors.Request, files: Sequence[RepoSibling], commit: str, settings: HubSettings
) -> list[Path]:
    """`files` at `commit` in huggingface_hub's cache, each with the hash that the hub gives for it.

    Those that are in the cache are not fetched again. HubError, StorageError: one sentence per cause; what is damaged
    is removed, what is incomplete never gets its name.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(settings.cache_dir or constants.HF_HUB_CACHE)
    blobs = folder / repo_folder_name(repo_id=request.repo_id, repo_type=request.kind) / "blobs"
    fetches = [partial(_fetch_file, request, file.rfilename, commit, settings) for file in files]
    try:
        paths = patience.all_in_parallel(
            fetches, num_parallel=_NUM_PARALLEL, folder=blobs, silence_seconds=settings.silence_seconds
        )
    except patience.SilentHubError as error:
        raise errors.given_up(request, error.status, settings.silence_seconds) from error
    for file, path in zip(files, paths, strict=True):
        verify(path, file.lfs.sha256 if file.lfs else str(file.blob_id), request.repo_id)
    return paths


def _fetch_file(request: errors.Request, name: str, commit: str, settings: HubSettings) -> Path:
    from huggingface_hub import hf_hub_download

    with errors.explained(request, file=name):
        return Path(
            hf_hub_download(
                request.repo_id,
                name,
                repo_type=request.kind,
                revision=commit,
                cache_dir=settings.cache_dir,
                endpoint=settings.endpoint,
                etag_timeout=settings.request_seconds,
                token=token() or False,
            )
        )


def verify(path: Path, expected: str, repo_id: str) -> None:
    """Compare a file with the hub's hash: SHA-256 of large files, git's SHA-1 of small ones. A bad one is removed."""
    found = cache.sha256_of(path) if len(expected) == 64 else _git_sha1(path)
    if found == expected:
        return
    path.resolve().unlink()
    path.unlink(missing_ok=True)
    raise HubError(
        f"{path.name} of {repo_id} is damaged: its hash is {found[:16]}..., the hub's is {expected[:16]}...",
        mend="the damaged file was removed; run the same command again to fetch it anew",
    )


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
