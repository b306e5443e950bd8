"""The rows of a run as an estimate needs them: how many, how long, and the largest pass; read, or assumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from whet.estimate.memory import Pass
from whet.recipe.schema import Recipe
from whet.train.pass_size import PassSize

ASSUMED_TAUGHT_SHARE = 0.6
"""of a row's tokens: 0.58 of GSM8K's are taught with SmolLM2's tokenizer (benchmarks/lengths), 0.62 of MetaMathQA's"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Largest:
    """The largest pass of a run that takes so many samples (or packs) at a time."""

    counted: Pass
    """the most of everything that any pass holds"""
    size: PassSize
    """the documents of the one with the most tokens"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeseenRows:
    """What is known of the training rows of a recipe."""

    num_units: int
    """samples of an epoch, or packs where the batch counts packs"""
    num_samples: int
    mean_length: float
    """tokens of a sample"""
    taught_share: float
    largest: Callable[[int], Largest]
    """samples (or packs) of a pass -> the largest one"""
    notes: tuple[str, ...]
    """where this comes from: read, or assumed"""

    @property
    def tokens_per_unit(self) -> float:
        """On average."""
        return self.num_samples * self.mean_length / self.num_units

    def cut_to(self, max_length: int) -> ForeseenRows:
        """The same rows with none longer than `max_length` tokens."""

        def largest(per_pass: int) -> Largest:
            found = self.largest(per_pass)
            lengths = tuple(min(length, max_length) for length in found.size.lengths)
            if lengths == found.size.lengths:
                return found
            size = PassSize(lengths=lengths, num_taught=min(found.size.num_taught, sum(lengths)))
            return Largest(counted=size.counted, size=size)

        return replace(self, mean_length=min(self.mean_length, max_length), largest=largest)


def assume_rows(
    recipe: Recipe, *, num_rows: int, mean_length: float | None, longest: int | None, why: str
) -> ForeseenRows:  # fmt: skip
    """Rows of which only the number is known, and perhaps the mean and the largest length in tokens.

    The largest pass has one row of the largest length and the others of the mean; packs are full.
    """
    limit = recipe.data.max_length
    most = min(limit, longest or limit)
    mean = min(float(most), mean_length or most)
    num_packs = math.ceil(num_rows * mean / limit)
    notes = [f"{why}: {num_rows:,} rows", _mean_note(mean, is_given=mean_length is not None)]
    if longest is None:
        notes.append(f"one row of every pass is as long as data.max_length, {most:,} tokens (assumed: --longest)")
    notes.append(f"{ASSUMED_TAUGHT_SHARE:.0%} of the tokens are taught (assumed)")

    def largest(per_pass: int) -> Largest:
        lengths = (limit,) * per_pass if recipe.batch.unit == "packs" else _lengths(per_pass, most, mean)
        taught = math.ceil(ASSUMED_TAUGHT_SHARE * sum(lengths))
        size = PassSize(lengths=lengths, num_taught=taught)
        return Largest(counted=size.counted, size=size)

    return ForeseenRows(
        num_units=num_packs if recipe.batch.unit == "packs" else num_rows,
        num_samples=num_rows,
        mean_length=mean,
        taught_share=ASSUMED_TAUGHT_SHARE,
        largest=largest,
        notes=tuple(notes),
    )


def _mean_note(mean: float, *, is_given: bool) -> str:
    if is_given:
        return f"{mean:g} tokens a row on average (given)"
    return f"every row is taken for as long as data.max_length, {mean:,.0f} tokens: the most it can be (--mean-length)"


def _lengths(per_pass: int, longest: int, mean: float) -> tuple[int, ...]:
    return (longest, *(math.ceil(mean),) * (per_pass - 1))
