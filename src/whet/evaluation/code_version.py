"""Which code wrote and judged an answer: a hash over its files and over the libraries under it."""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import cache
from pathlib import Path

import whet

_WRITES_AND_JUDGES = (
    "inference/*.py",
    "kernels/attention.py",
    "models/adapter_source.py",
    "models/fused_layout.py",
    "models/merge.py",
    "data/templates/*.py",
    "data/templates/*.jinja",
    "data/datasets/*.py",
    "evaluation/answers.py",
)
_LIBRARIES = ("torch", "transformers", "tokenizers")


@cache
def code_version() -> str:
    """16 hex digits; equal on every machine with the same whet, torch, transformers and tokenizers."""
    return _hash_code(Path(whet.__file__).parent, {name: importlib.metadata.version(name) for name in _LIBRARIES})


def _hash_code(package: Path, versions: dict[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(versions.items())).encode())
    for pattern in _WRITES_AND_JUDGES:
        for path in sorted(package.glob(pattern)):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()[:16]
