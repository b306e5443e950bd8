"""What a look into the data found: values between data/overlap.py, data/inspect.py, the terminal and the HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from whet.types import Ledger

TokenRole = Literal["system", "user", "assistant", "tool", "prompt", "template"]
"""`prompt`: text of a template that names no roles; `template`: what the chat template writes around the messages"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapPair:
    """An evaluation row and the first training row that shares something with it."""

    eval_origin: str
    train_origin: str
    kind: str
    """`same question`, `same parameters`, `13-gram` or `8-gram`"""
    shared: str = ""
    """the first n-gram that both have; empty for whole questions"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramOverlap:
    """Rows of an evaluation set whose question shares n words in a row with any training question."""

    n: int
    num_rows: int
    num_boilerplate: int
    """different n-grams of this set that were set aside because too many training rows have them"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapReport:
    """What one evaluation set has in common with the training rows."""

    num_rows: int
    num_train_rows: int
    num_exact: int
    """rows with the question of a training row (case, white space, Unicode forms and the instruction aside)"""
    num_same_parameters: int | None
    """generated rows made from the same thing as a training row; None where no row is generated"""
    ngrams: tuple[NgramOverlap, ...]
    pairs: tuple[OverlapPair, ...]
    """the first few of each kind; a row stands under its strongest kind only"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts of samples by length. Bin i holds edges[i] <= tokens < edges[i + 1]."""

    edges: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLengths:
    """Words (by white space) in the taught text of samples."""

    num_answers: int
    """samples that were counted: all, or an even selection of a large set"""
    median_words: float
    mean_words: float
    share_concise: float
    """fewer than 100 words"""
    share_medium: float
    """100 to 299 words"""
    share_long: float
    """300 words and more"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialToken:
    """How often a control token stands in a set."""

    id: int
    text: str
    meaning: str
    """`beginning of sequence`, `end of turn`, both, `padding` or `other`"""
    count: int
    num_taught: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingSummary:
    """What laying samples end to end saves, and how full rows of a fixed length would be."""

    padded_batch_size: int
    padding_share: float
    """share of all computed tokens that would be padding in batches of that size, padded to their longest"""
    capacity: int
    """tokens of a pack: data.max_length"""
    num_packs: int
    pack_efficiency: float
    """share of the packs' tokens that are samples (best fit decreasing)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSummary:
    """The numbers of one tokenized set."""

    name: str
    num_samples: int
    num_tokens: int
    """in one epoch"""
    num_taught: int
    """tokens that the loss covers, in one epoch"""
    shortest: int
    median: float
    longest: int
    histogram: Histogram
    answers: AnswerLengths | None
    special_tokens: tuple[SpecialToken, ...]
    packing: PackingSummary | None
    ledger: Ledger | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """One token of a sample as people can read it."""

    position: int
    """counts from 0 in its document"""
    id: int
    text: str
    """empty where the token only goes on with a character that an earlier token shows"""
    is_taught: bool
    is_special: bool
    role: TokenRole


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleView:
    """One sample token by token. Invariant: the texts joined are the decoded sample."""

    number: int
    """counts from 1 in its set"""
    id: str
    tokens: tuple[TokenView, ...]

    @property
    def num_taught(self) -> int:
        return sum(token.is_taught for token in self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassView:
    """One forward pass of the first optimizer step: documents end to end, none seeing another."""

    number: int
    """counts from 1 in its step"""
    documents: tuple[SampleView, ...]
    num_documents: int
    num_tokens: int
    """of the whole pass, also where `documents` shows only its beginning"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Everything `whet inspect` shows."""

    name: str
    """of the run"""
    model: str
    sets: tuple[SetSummary, ...]
    overlaps: Mapping[str, OverlapReport]
    shown_set: str
    rows: tuple[SampleView, ...]
    passes: tuple[PassView, ...]
    num_passes: int
    """of the first optimizer step over all ranks; `passes` may show fewer"""
    notes: tuple[str, ...]
