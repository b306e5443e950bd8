"""One evaluation set as it is asked, and the key under which a model's answers to it are kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from whet.evaluation.code_version import code_version
from whet.inference.decoding import Decoding
from whet.types import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Rendered rows of one set. Invariant: as many prompts as examples."""

    name: str
    examples: tuple[Example, ...]
    prompts: tuple[tuple[int, ...], ...]
    decoding: Decoding
    stop_ids: frozenset[int]

    def __len__(self) -> int:
        return len(self.examples)

    def fingerprint(self, num_rows: int | None = None) -> str:
        """SHA-256 over example ids, prompt tokens and stop tokens of the first `num_rows` (all) rows."""
        digest = hashlib.sha256(json.dumps(sorted(self.stop_ids)).encode())
        for example, prompt in zip(self.examples[:num_rows], self.prompts[:num_rows], strict=True):
            digest.update(json.dumps([example.id, prompt]).encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerKey:
    """All that decides what is answered. Answers are used again only under an equal key."""

    weights: str
    """weights hash, live or merged, dtype, device"""
    rows: str
    """fingerprint of all rows of the set"""
    decoding: str
    code: str

    @property
    def digest(self) -> str:
        """SHA-256 of the key, for file names."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def answer_key(questions: Questions, weights: str) -> AnswerKey:
    """The key of what the model `weights` answers to `questions` with the code and libraries of now."""
    return AnswerKey(
        weights=weights,
        rows=questions.fingerprint(),
        decoding=str(questions.decoding),
        code=code_version(),
    )
