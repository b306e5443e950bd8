"""How answers are written: greedy or sampled, how long, what ends them. Its text says all that changes an answer."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from whet.errors import RecipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """Settings of `engine.generate`. Two reports compare only when `str(decoding)` is equal.

    RecipeError where a setting cannot be meant.
    """

    max_new_tokens: int
    batch_rows: int = 32
    """rows side by side; affects speed and memory, and the text only through rounding"""
    temperature: float = 0.0
    """logits are divided by it before sampling; 0 is greedy: always the most probable token"""
    top_k: int = 0
    """sample among this many most probable tokens; 0: among all"""
    top_p: float = 1.0
    """of these, sample among the fewest most probable ones that together have this probability (arXiv:1904.09751)"""
    seed: int = 0
    """with a row's key it decides what the row draws"""
    stop_strings: tuple[str, ...] = ()
    """texts that end an answer, which is cut before them"""
    max_total_tokens: int | None = None
    """longest prompt with its answer: what the model can read. A long prompt leaves its row a lower limit"""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.batch_rows < 1 or (self.max_total_tokens or 1) < 1:
            raise _refusal("limits and batch size must be at least 1")
        if not 0 <= self.temperature < math.inf:
            raise _refusal(f"temperature must be 0 (greedy) or more (got {self.temperature})")
        if self.top_k < 0:
            raise _refusal(f"top_k must be 0 (all tokens) or more (got {self.top_k})")
        if not 0 < self.top_p <= 1:
            raise _refusal(f"top_p must be above 0 and at most 1 (got {self.top_p})")
        if "" in self.stop_strings:
            raise _refusal("an empty stop string would end every answer before its first letter")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    def __str__(self) -> str:
        parts = ["greedy"] if self.is_greedy else [self._sampling()]
        parts.append(f"at most {self.max_new_tokens} new tokens")
        if self.max_total_tokens is not None:
            parts.append(f"at most {self.max_total_tokens} with the prompt")
        if self.stop_strings:
            parts.append(f"ends before {' or '.join(json.dumps(text) for text in sorted(self.stop_strings))}")
        return ", ".join(parts)

    def _sampling(self) -> str:
        narrowed = [f"top_k {self.top_k}"] if self.top_k else []
        narrowed += [f"top_p {float(self.top_p)!r}"] if self.top_p < 1 else []
        return " ".join([f"sampled at temperature {float(self.temperature)!r}", *narrowed, f"seed {self.seed}"])


def _refusal(what: str) -> RecipeError:
    return RecipeError(what, mend="change the decoding settings")
