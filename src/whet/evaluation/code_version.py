"""Which code wrote, judged or measured what is kept: hashes over its files and over the libraries under it."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import whet

_READS = (
    "kernels/attention.py",
    "models/adapter_source.py",
    "models/fused_layout.py",
    "models/merge.py",
    "data/templates/*.py",
    "data/templates/*.jinja",
)
_WRITES_AND_JUDGES = (
    *_READS,
    "kernels/decode_step.py",
    "kernels/packed_linear.py",
    "inference/*.py",
    "data/datasets/*.py",
    "evaluation/answers.py",
    "evaluation/writers.py",
)
_MEASURES = (*_READS, "data/packing.py", "kernels/loss_head.py", "evaluation/likelihood.py")
_FINDS_SEEN_ROWS = ("data/overlap.py", "data/ngrams.py", "data/row_keys.py")
_LIBRARIES = ("torch", "transformers", "tokenizers")


def code_version() -> str:
    """That of answers: 16 hex digits; equal on every machine with the same whet, torch, transformers and tokenizers."""
    return _version(_WRITES_AND_JUDGES)


def likelihood_version() -> str:
    """That of the likelihoods of gold answers."""
    return _version(_MEASURES)


def overlap_version() -> str:
    """That of the search for evaluation rows among the training rows."""
    return _version(_FINDS_SEEN_ROWS)


@cache
def _version(patterns: tuple[str, ...]) -> str:
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return _hash_code(Path(whet.__file__).parent, versions, patterns)


def _hash_code(package: Path, versions: dict[str, str], patterns: Sequence[str] = _WRITES_AND_JUDGES) -> str:
    digest = hashlib.sha256(repr(sorted(versions.items())).encode())
    for pattern in patterns:
        for path in sorted(package.glob(pattern)):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()[:16]
