"""The numbers of a tokenized set and its samples as people can read them; nothing is trained, no weights are needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from whet.data.pack_plan import plan_packs
from whet.data.packing import padding_share
from whet.data.sampler import epoch_order
from whet.data.token_text import control_tokens, view_sample
from whet.inspection import (
    AnswerLengths,
    Histogram,
    PackingSummary,
    PassView,
    SampleView,
    SetSummary,
    SpecialToken,
)
from whet.types import Ledger, TokenizedSample, TokenizedSet

PADDED_BATCH_SIZE = 8
"""samples of a padded batch that packing is compared with"""
CONCISE_WORDS, LONG_WORDS = 100, 300
"""An answer below the first is concise, from the second on long. The FiQA project states 29.4 %, 52.1 % and 18.6 % for
its 5,500 answers but not its borders; by these, 333 rows of that dataset give 30.3 %, 52.0 % and 17.7 %."""
_MOST_BINS = 12
_MOST_ANSWERS = 20_000
_CHUNK_SAMPLES = 1024


def summarise_set(
    name: str, tokens: TokenizedSet, tokenizer: Any, *, end_ids: Collection[int], capacity: int | None, seed: int
) -> SetSummary:
    """The numbers of one epoch of `tokens`.

    `capacity`: data.max_length, None for a set that is never packed; `seed`: decides the order of samples.
    """
    lengths = tokens.lengths
    return SetSummary(
        name=name,
        num_samples=len(lengths),
        num_tokens=int(lengths.sum(dtype=np.int64)),
        num_taught=int(tokens.num_taught.sum(dtype=np.int64)),
        shortest=int(lengths.min()) if len(lengths) else 0,
        median=float(np.median(lengths)) if len(lengths) else 0.0,
        longest=int(lengths.max(initial=0)),
        histogram=length_histogram(lengths),
        answers=answer_lengths(tokens.samples, tokenizer),
        special_tokens=count_special_tokens(tokens.samples, tokenizer, end_ids),
        packing=None if capacity is None else summarise_packing(lengths, capacity=capacity, seed=seed),
        ledger=tokens.ledger,
    )


def length_histogram(lengths: np.ndarray) -> Histogram:
    """At most 12 bins of equal, round width over the lengths (int [num_samples], in tokens)."""
    if not len(lengths):
        return Histogram(edges=(0,), counts=())
    shortest, longest = int(lengths.min()), int(lengths.max())
    width = next(width for width in _round_numbers() if longest // width - shortest // width < _MOST_BINS)
    first = shortest // width
    counts = np.bincount(lengths // width - first)
    edges = tuple((first + i) * width for i in range(len(counts) + 1))
    return Histogram(edges=edges, counts=tuple(counts.tolist()))


def _round_numbers() -> Iterator[int]:
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def answer_lengths(samples: Sequence[TokenizedSample], tokenizer: Any) -> AnswerLengths | None:
    """Lengths of the taught answers in words; every taught turn is one. Of a large set 20,000 samples are read."""
    chosen = np.linspace(0, len(samples) - 1, min(len(samples), _MOST_ANSWERS)).round().astype(np.int64)
    words = [
        len(tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False).split())
        for index in chosen.tolist()
        for answer in _taught_runs(samples[index])
    ]
    if not words:
        return None
    counts = np.array(words)
    return AnswerLengths(
        num_answers=len(words),
        median_words=float(np.median(counts)),
        mean_words=float(counts.mean()),
        share_concise=float((counts < CONCISE_WORDS).mean()),
        share_medium=float(((counts >= CONCISE_WORDS) & (counts < LONG_WORDS)).mean()),
        share_long=float((counts >= LONG_WORDS).mean()),
    )


def _taught_runs(sample: TokenizedSample) -> Iterator[list[int]]:
    borders = np.flatnonzero(np.diff(np.concatenate([[0], sample.taught.astype(np.int8), [0]])))
    for start, stop in zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True):
        yield sample.ids[start:stop].tolist()


def count_special_tokens(
    samples: Sequence[TokenizedSample], tokenizer: Any, end_ids: Collection[int]
) -> tuple[SpecialToken, ...]:
    """Every control token that stands in the set, and those with a meaning even where none stands in it."""
    control = control_tokens(tokenizer, end_ids)
    counts, taught = np.zeros(max(control) + 1, dtype=np.int64), np.zeros(max(control) + 1, dtype=np.int64)
    for start in range(0, len(samples), _CHUNK_SAMPLES):
        chunk = [samples[i] for i in range(start, min(start + _CHUNK_SAMPLES, len(samples)))]
        ids = np.concatenate([sample.ids for sample in chunk])
        marks = np.concatenate([sample.taught for sample in chunk])
        counts += np.bincount(ids, minlength=len(counts))[: len(counts)]
        taught += np.bincount(ids[marks], minlength=len(counts))[: len(counts)]
    meanings = {number: _meaning(number, tokenizer, end_ids) for number in control}
    return tuple(
        SpecialToken(id=number, text=control[number], meaning=meanings[number] or "other",
                     count=int(counts[number]), num_taught=int(taught[number]))
        for number in sorted(control)
        if counts[number] or meanings[number]
    )  # fmt: skip


def _meaning(number: int, tokenizer: Any, end_ids: Collection[int]) -> str:
    meanings = {
        "beginning of sequence": number == tokenizer.bos_token_id,
        "end of turn": number in end_ids,
        "padding": number == tokenizer.pad_token_id,
    }
    return ", ".join(meaning for meaning, holds in meanings.items() if holds)


def summarise_packing(lengths: np.ndarray, *, capacity: int, seed: int) -> PackingSummary | None:
    """What padding would cost in the order of the first epoch, and how full packs of `capacity` tokens are."""
    if not len(lengths):
        return None
    packs = plan_packs(lengths, capacity)
    in_order = lengths[epoch_order(len(lengths), seed=seed, epoch=0)]
    return PackingSummary(
        padded_batch_size=PADDED_BATCH_SIZE,
        padding_share=padding_share(in_order, PADDED_BATCH_SIZE),
        capacity=capacity,
        num_packs=len(packs),
        pack_efficiency=int(lengths.sum(dtype=np.int64)) / (len(packs) * capacity),
    )


def prompt_set(ids: Sequence[Sequence[int]], names: Sequence[str], ledger: Ledger) -> TokenizedSet:
    """Prompts of an evaluation set as a set that teaches nothing. `ids`: tokens of each prompt, `names`: row ids."""
    samples = [
        TokenizedSample(id=name, ids=np.array(prompt, dtype=np.int32), taught=np.zeros(len(prompt), dtype=bool))
        for name, prompt in zip(names, ids, strict=True)
    ]
    lengths = np.array([sample.num_tokens for sample in samples], dtype=np.int32)
    return TokenizedSet(samples=samples, lengths=lengths, num_taught=np.zeros_like(lengths), ledger=ledger,
                        source_sizes=(len(samples),), fingerprint="")  # fmt: skip


def view_row(samples: Sequence[TokenizedSample], index: int, tokenizer: Any, *, end_ids: Collection[int]) -> SampleView:
    """Sample `index` (from 0) token by token."""
    sample = samples[index]
    return view_sample(tokenizer, sample.ids, sample.taught, sample_id=sample.id, number=index + 1, end_ids=end_ids)


def view_passes(
    samples: Sequence[TokenizedSample], passes: Sequence[Sequence[int]], tokenizer: Any, *, end_ids: Collection[int],
    most_tokens: int,
) -> tuple[PassView, ...]:  # fmt: skip
    """Forward passes as they are trained, documents end to end; `passes` holds the samples (from 0) of each.

    Documents are shown whole, and no further one once `most_tokens` are shown.
    """
    views = []
    num_left = most_tokens
    for number, indices in enumerate(passes, start=1):
        shown = []
        for index in map(int, indices):
            if num_left <= 0:
                break
            shown.append(view_row(samples, index, tokenizer, end_ids=end_ids))
            num_left -= len(shown[-1].tokens)
        num_tokens = sum(samples[int(index)].num_tokens for index in indices)
        if shown:
            views.append(PassView(number=number, documents=tuple(shown), num_documents=len(indices),
                                  num_tokens=num_tokens))  # fmt: skip
    return tuple(views)


def find_row(samples: Sequence[TokenizedSample], wanted: str) -> int | None:
    """Index (from 0) of the sample with number `wanted` (from 1), or with that id; None where there is none."""
    if wanted.isascii() and wanted.isdigit():
        return int(wanted) - 1 if 1 <= int(wanted) <= len(samples) else None
    return next((index for index in range(len(samples)) if samples[index].id == wanted), None)
