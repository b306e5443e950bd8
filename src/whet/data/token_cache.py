"""Tokens of one source on disk: written once while its rows stream by, read back through a memory map.

So data may be larger than memory, a stream of the hub resumes as exactly as a file, and the second run of a recipe
tokenizes nothing. A folder of the cache is named after everything that its tokens depend on; it appears whole or not
at all, and its files are checked against their SHA-256 sums whenever it is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from whet import cache
from whet.data import cache_room
from whet.json_text import read_json
from whet.types import LedgerRow, TokenizedSample

FORMAT_VERSION = 1
SAMPLE = np.dtype(
    [
        ("start", "<i8"), ("length", "<i4"), ("num_taught", "<i4"),
        ("content", "<u8"), ("question", "<u8"), ("parameters", "<u8"),
    ]
)  # fmt: skip
"""One sample: where its tokens begin, how many there are, and the keys of data/row_keys.py."""

_IDS, _TAUGHT, _SAMPLES, _ORIGINS = "ids.i32", "taught.u8", "samples.bin", "origins.jsonl"
_LEDGER, _QUARANTINE, _META = "ledger.jsonl", "quarantine.jsonl", "meta.json"
_FILES = (_IDS, _TAUGHT, _SAMPLES, _ORIGINS, _LEDGER, _QUARANTINE)


class TokenWriter:
    """Appends samples and notes about rows to the files of one cache folder."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {name: stack.enter_context((folder / name).open("wb")) for name in _FILES}
        self._digests = {name: hashlib.sha256() for name in _FILES}
        self.num_tokens = 0

    def add(self, sample: TokenizedSample, *, content: int, question: int, parameters: int, origin: str) -> None:
        """One sample with the keys of its row."""
        record = (self.num_tokens, sample.num_tokens, sample.num_taught, content, question, parameters)
        self._write(_IDS, sample.ids.astype("<i4").tobytes())
        self._write(_TAUGHT, sample.taught.astype("u1").tobytes())
        self._write(_SAMPLES, np.array([record], dtype=SAMPLE).tobytes())
        self._write_line(_ORIGINS, origin)
        self.num_tokens += sample.num_tokens

    def note(self, row: LedgerRow, content: str = "") -> None:
        """A row that was dropped or cut; `content` of a bad row is kept in quarantine."""
        self._write_line(_LEDGER, asdict(row))
        if content:
            self._write_line(_QUARANTINE, {"origin": row.origin, "reason": row.reason, "row": content})

    def finish(self, facts: dict[str, Any]) -> None:
        """Flush everything and write meta.json, which says that the folder is whole."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        sums = {name: digest.hexdigest() for name, digest in self._digests.items()}
        document = {"format_version": FORMAT_VERSION, "sha256": sums, **facts}
        with (self._folder / _META).open("wb") as meta:
            meta.write(json.dumps(document, indent=1).encode())
            meta.flush()
            os.fsync(meta.fileno())

    def _write_line(self, name: str, value: Any) -> None:
        self._write(name, json.dumps(value).encode() + b"\n")

    def _write(self, name: str, content: bytes) -> None:
        with _writing(self._folder):
            self._files[name].write(content)
        self._digests[name].update(content)


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class CachedTokens:
    """One source, tokenized. Sample i has tokens ids[start : start + length]."""

    folder: Path
    samples: np.ndarray
    """SAMPLE [num_samples]"""
    ids: np.ndarray
    """int32 [num_tokens]"""
    taught: np.ndarray
    """bool [num_tokens]"""
    fingerprint: str
    """SHA-256 over tokens, taught marks and keys"""
    facts: dict[str, Any]
    was_cached: bool

    def ledger(self) -> tuple[LedgerRow, ...]:
        """Rows that were dropped or cut."""
        return tuple(LedgerRow(**row) for row in _lines(self.folder / _LEDGER))

    def quarantine(self) -> Iterator[dict[str, str]]:
        """Bad rows with origin, reason and what they hold."""
        return _lines(self.folder / _QUARANTINE)

    def origins(self, positions: set[int]) -> dict[int, str]:
        """Where some of the samples come from."""
        if not positions:
            return {}
        return {number: origin for number, origin in enumerate(self.all_origins()) if number in positions}

    def all_origins(self) -> Iterator[str]:
        """Where each sample comes from, in order."""
        return _lines(self.folder / _ORIGINS)


def open_tokens(key: str, write: Callable[[TokenWriter], dict[str, Any]]) -> CachedTokens:
    """The cache folder `key`, written by `write` (which returns facts to keep) if it is not there yet.

    Several processes may ask at once: one writes, the others wait and read. The folder stays as long as what
    is returned lives; others make room for new tokens (cache_room.py). StorageError where the cache folder cannot be
    written or is full, RecipeError where its limit is no number; what `write` raises leaves nothing behind.
    """
    most_bytes = cache_room.limit_bytes()
    folder = cache.make_folder(cache.cache_folder() / "tokens") / key[:32]
    with cache.one_writer(folder.with_name(f"{folder.name}.lock")):
        found = _open(folder, was_cached=True)
        if found is None:
            _build(folder, write)
            found = _open(folder, was_cached=False)
            assert found is not None
        with _writing(folder):
            cache_room.hold(folder, found)
            if not found.was_cached:
                cache_room.make_room(folder.parent, written=folder, most_bytes=most_bytes)
        return found


def _build(folder: Path, write: Callable[[TokenWriter], dict[str, Any]]) -> None:
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)  # of a process that died: nobody else holds the lock
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with ExitStack() as stack:
            with _writing(folder):
                draft.mkdir()
                writer = TokenWriter(draft, stack)
            facts = write(writer)
            with _writing(folder):
                writer.finish(facts)
        with _writing(folder):
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Failed writes as StorageError; what fails while rows are read is another matter."""
    try:
        yield
    except OSError as error:
        raise cache.cannot_write(folder, error) from error


def _open(folder: Path, *, was_cached: bool) -> CachedTokens | None:
    """None where the folder is missing, of another version, or damaged."""
    try:
        meta = read_json((folder / _META).read_bytes())
        sums = meta.pop("sha256")
        is_whole = meta.pop("format_version") == FORMAT_VERSION and all(
            cache.digest_of(folder / name) == sums[name] for name in _FILES
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not is_whole:
        return None
    fingerprint = hashlib.sha256("".join(sums[name] for name in (_IDS, _TAUGHT, _SAMPLES)).encode()).hexdigest()
    return CachedTokens(
        folder=folder,
        samples=_map(folder / _SAMPLES, SAMPLE),
        ids=_map(folder / _IDS, np.dtype("<i4")),
        taught=_map(folder / _TAUGHT, np.dtype("u1")).view(np.bool_),
        fingerprint=fingerprint,
        facts=meta,
        was_cached=was_cached,
    )


def _map(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    if path.stat().st_size == 0:
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
