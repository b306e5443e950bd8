"""One evaluation set as it is asked, and the key under which a model's answers to it are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from whet.data.datasets import with_judge
from whet.data.templates import Template, prompts
from whet.evaluation.code_version import code_version
from whet.inference.decoding import Decoding
from whet.recipe.schema import Evaluate
from whet.types import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Rendered rows of one set. Invariant: as many prompts as examples."""

    entry: Evaluate
    """what the recipe says of the set"""
    examples: tuple[Example, ...]
    prompts: tuple[tuple[int, ...], ...]
    decoding: Decoding
    stop_ids: frozenset[int]

    @property
    def name(self) -> str:
        return self.entry.name

    def __len__(self) -> int:
        return len(self.examples)

    def fingerprint(self, num_rows: int | None = None) -> str:
        """SHA-256 over example ids, prompt tokens and stop tokens of the first `num_rows` (all) rows."""
        digest = hashlib.sha256(json.dumps(sorted(self.stop_ids)).encode())
        for example, prompt in zip(self.examples[:num_rows], self.prompts[:num_rows], strict=True):
            digest.update(json.dumps([example.id, prompt]).encode())
        return digest.hexdigest()


def render_questions(
    entry: Evaluate, examples: Sequence[Example], template: Template, *, context: int, seed: int
) -> Questions:
    """`examples` as the model is asked them. `context`: tokens that it can read; `seed`: the recipe's, for sampling."""
    examples = tuple(with_judge(example, entry.judge) for example in examples)
    rendered = tuple(tuple(prompt) for prompt in prompts(template, examples))
    longest = max((len(prompt) for prompt in rendered), default=0)
    return Questions(
        entry=entry,
        examples=examples,
        prompts=rendered,
        decoding=Decoding(
            max_new_tokens=entry.max_new_tokens,
            batch_rows=entry.batch_rows,
            temperature=entry.temperature,
            top_p=entry.top_p,
            # greedy answers do not depend on the seed, and are the same ones for runs that differ in it
            seed=seed if entry.temperature > 0 else 0,
            stop_strings=entry.stop,
            max_total_tokens=context if longest + entry.max_new_tokens > context else None,
        ),
        stop_ids=template.end_ids,
    )


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


def answer_key(questions: Questions, weights: str, writer: str = "") -> AnswerKey:
    """The key of what the model `weights` answers to `questions` with the code and libraries of now.

    `writer` names what writes in the place of whet's engine, with its version: reports of two writers do not compare.

    Metrics and judge have no part in it: another choice of them generates nothing.
    """
    return AnswerKey(
        weights=weights,
        rows=questions.fingerprint(),
        decoding=f"{questions.decoding}, written by {writer}" if writer else str(questions.decoding),
        code=code_version(),
    )
