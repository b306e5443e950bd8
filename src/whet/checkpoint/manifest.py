"""SHA-256 manifest of a checkpoint folder: written last, removed first. Without it a folder is not a checkpoint.

safetensors and JSON carry no checksum of their own: a flipped bit or a zeroed half loads without an error.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whet import cache
from whet.atomic import write_text
from whet.checkpoint.names import step_of
from whet.errors import StorageError
from whet.json_text import read_json

NAME = "manifest.json"
FORMAT_VERSION = 1
_MEND = "give `whet train` with its recipe again, which writes it anew, or take one of the run's checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a whole checkpoint consists of."""

    step: int
    sha256: dict[str, str]
    """file name -> hex digest"""
    bytes: dict[str, int]
    """file name -> size"""
    format_version: int = FORMAT_VERSION


def write_manifest(folder: Path, *, step: int) -> Manifest:
    """Hash every file of `folder` and write the manifest, last of all."""
    files = sorted(p for p in folder.iterdir() if p.name != NAME)
    manifest = Manifest(
        step=step,
        sha256={p.name: cache.digest_of(p) for p in files},
        bytes={p.name: p.stat().st_size for p in files},
    )
    record(folder, manifest)
    return manifest


def record(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of files whose sums are known, last of all."""
    document = {
        "format_version": manifest.format_version,
        "step": manifest.step,
        "sha256": manifest.sha256,
        "bytes": manifest.bytes,
    }
    write_text(folder / NAME, json.dumps(document, indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of `folder`; StorageError when it is missing, torn or of a newer format."""
    path = folder / NAME
    try:
        document = read_json(path.read_bytes())
        manifest = Manifest(
            step=int(document["step"]),
            sha256={str(k): str(v) for k, v in document["sha256"].items()},
            bytes={str(k): int(v) for k, v in document["bytes"].items()},
            format_version=int(document["format_version"]),
        )
    except FileNotFoundError as error:
        raise StorageError("the checkpoint was not finished (no manifest)", where=str(folder)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise StorageError(f"the manifest cannot be read ({type(error).__name__}: {error})", where=str(path)) from error
    if manifest.format_version != FORMAT_VERSION:
        raise StorageError(
            f"checkpoint format {manifest.format_version}, this whet reads {FORMAT_VERSION}",
            where=str(path),
            mend="use the whet that wrote it",
        )
    if manifest.sha256.keys() != manifest.bytes.keys():
        raise StorageError("the manifest has sums and sizes of different files", where=str(path))
    return manifest


def refuse_changed(folder: Path, names: Sequence[str]) -> None:
    """StorageError when one of `names` in `folder` is not what its manifest says; files that it does not list, and
    folders without a manifest, pass."""
    path = folder / NAME
    if not path.is_file():
        return
    try:
        listed = dict(read_json(path.read_bytes())["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"the manifest cannot be read ({error})", where=str(path), mend=_MEND) from error
    for name in names:
        if name in listed and (not (folder / name).is_file() or cache.digest_of(folder / name) != listed[name]):
            raise StorageError(f"{name} was changed or damaged (SHA-256 differs)", where=str(folder), mend=_MEND)


def verify(folder: Path, *, rank: int = 0, num_ranks: int = 1) -> Manifest:
    """Every file present with its recorded size and SHA-256, no other file; else StorageError naming the file.

    Of several ranks each computes the sums of some files: all of them together have looked at all of it.
    """
    manifest = read_manifest(folder)
    if (named := step_of(folder)) is not None and named != manifest.step:
        # the only entry that no sum protects
        raise StorageError(f"the manifest is of step {manifest.step}", where=str(folder))
    present = {p.name for p in folder.iterdir() if p.name != NAME}
    for name in sorted(set(manifest.sha256) - present):
        raise StorageError(f"{name} is missing", where=str(folder))
    for name in sorted(present - set(manifest.sha256)):
        raise StorageError(f"{name} does not belong to the checkpoint", where=str(folder))
    for number, (name, digest) in enumerate(sorted(manifest.sha256.items())):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise StorageError(f"{name} is not a plain file", where=str(folder))
        if path.stat().st_size != manifest.bytes[name]:
            raise StorageError(f"{name} has {path.stat().st_size} bytes, not {manifest.bytes[name]}", where=str(folder))
        if number % num_ranks == rank and cache.digest_of(path) != digest:
            raise StorageError(f"{name} was changed or damaged (SHA-256 differs)", where=str(folder))
    return manifest
