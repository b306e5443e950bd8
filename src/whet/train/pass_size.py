"""A pass as an error or an estimate needs it: its documents and what is taught of them. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from whet.estimate.memory import Pass, kept_probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class PassSize:
    """A pass, and why there was no memory for it."""

    lengths: tuple[int, ...] = ()
    """tokens of its documents"""
    num_taught: int = 0
    what: str = ""
    """the first line of the error"""

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def counted(self) -> Pass:
        """As the estimate of memory takes it."""
        return Pass(
            tokens=self.num_tokens,
            taught=min(self.num_taught, self.num_tokens),
            probabilities=sum(map(kept_probabilities, self.lengths)),
        )

    @property
    def words(self) -> str:
        """`a pass of 4 samples (812 tokens)`"""
        samples = "1 sample" if len(self.lengths) == 1 else f"{len(self.lengths)} samples"
        return f"a pass of {samples} ({self.num_tokens:,} tokens)"
