"""An inspection as tables of text: the same ones in the terminal and on the page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from whet.inspection import Inspection, OverlapReport, SetSummary
from whet.types import Ledger, RowStatus

_NUM_FIRST_ROWS = 3
_PROMPTS = "-: prompts, which base and tuned answer; the answers are judged, and nothing of the set is taught"
_NUMBER = re.compile(r"-|[\d,.]+( %)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells as text. Invariant: every row is as long as `columns`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def is_number_column(self, index: int) -> bool:
        """Whether column `index` holds numbers alone, which are read best when they end on one line."""
        return all(_NUMBER.fullmatch(row[index]) for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bin of a histogram."""

    label: str
    count: int
    share_of_highest: float
    """0 to 1"""


def build_tables(inspection: Inspection) -> tuple[Table, ...]:
    """Every table of `inspection` that has rows, in reading order."""
    sets = inspection.sets
    tables = [
        _samples(sets),
        *(_ledger(summary.ledger) for summary in sets if summary.ledger is not None),
        _answers(sets),
        *(_special_tokens(summary) for summary in sets),
        _packing(sets),
        _overlap(inspection.overlaps),
        _pairs(inspection.overlaps),
    ]
    return tuple(table for table in tables if table.rows)


def bars(summary: SetSummary) -> tuple[Bar, ...]:
    """The histogram of lengths, one bar per bin; none for an empty set."""
    edges, counts = summary.histogram.edges, summary.histogram.counts
    return tuple(
        Bar(label=f"{low:,} to {high - 1:,}", count=count, share_of_highest=count / max(counts))
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    )


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _samples(sets: Sequence[SetSummary]) -> Table:
    return Table(
        title="Samples and tokens of one epoch",
        columns=("set", "samples", "tokens", "taught", "share taught", "shortest", "median", "longest"),
        rows=tuple(
            (
                summary.name,
                f"{summary.num_samples:,}",
                f"{summary.num_tokens:,}",
                *_taught(summary),
                f"{summary.shortest:,}",
                f"{summary.median:,.0f}",
                f"{summary.longest:,}",
            )
            for summary in sets
        ),
        note="" if all(summary.num_taught for summary in sets) else _PROMPTS,
    )


def _taught(summary: SetSummary) -> tuple[str, str]:
    if not summary.num_taught:
        return "-", "-"
    return f"{summary.num_taught:,}", percent(summary.num_taught / max(1, summary.num_tokens))


def _ledger(ledger: Ledger) -> Table:
    rows = [("kept", f"{ledger.num_kept:,}", "")]
    for status in get_args(RowStatus):
        first = [row for row in ledger.rows if row.status == status]
        if not first:
            continue
        fate = "" if status != "duplicate" else (" (dropped)" if ledger.drops_duplicates else " (used all the same)")
        listed = "; ".join(f"{row.origin}: {row.reason}" for row in first[:_NUM_FIRST_ROWS])
        more = len(first) - _NUM_FIRST_ROWS
        rows.append((status + fate, f"{len(first):,}", f"{listed}; and {more:,} more" if more > 0 else listed))
    return Table(
        title=f"Rows of {ledger.name}: {ledger.num_rows:,} in, {ledger.num_samples:,} samples out",
        columns=("row", "rows", "first ones"),
        rows=tuple(rows),
    )


def _answers(sets: Sequence[SetSummary]) -> Table:
    return Table(
        title="Answers in words",
        columns=("set", "answers", "median", "mean", "concise (< 100)", "medium", "long (>= 300)"),
        rows=tuple(
            (
                summary.name,
                f"{answers.num_answers:,}",
                f"{answers.median_words:,.0f}",
                f"{answers.mean_words:,.1f}",
                percent(answers.share_concise),
                percent(answers.share_medium),
                percent(answers.share_long),
            )
            for summary in sets
            if (answers := summary.answers) is not None
        ),
    )


def _special_tokens(summary: SetSummary) -> Table:
    return Table(
        title=f"Control tokens of {summary.name}",
        columns=("token", "id", "in all", "taught", "per sample", "meaning"),
        rows=tuple(
            (
                token.text,
                str(token.id),
                f"{token.count:,}",
                f"{token.num_taught:,}",
                f"{token.count / max(1, summary.num_samples):.2f}",
                token.meaning,
            )
            for token in summary.special_tokens
        ),
    )


def _packing(sets: Sequence[SetSummary]) -> Table:
    return Table(
        title="Packing",
        columns=("set", "padding avoided", "pack length", "packs", "packs filled to"),
        rows=tuple(
            (
                summary.name,
                percent(packing.padding_share),
                f"{packing.capacity:,}",
                f"{packing.num_packs:,}",
                percent(packing.pack_efficiency),
            )
            for summary in sets
            if (packing := summary.packing) is not None
        ),
        note="padding avoided: share of padded batches of "
        f"{next((s.packing.padded_batch_size for s in sets if s.packing), 0)} that would be padding",
    )


def _overlap(overlaps: Mapping[str, OverlapReport]) -> Table:
    sizes = sorted({ngram.n for report in overlaps.values() for ngram in report.ngrams})
    return Table(
        title="Overlap with the training rows",
        columns=("set", "rows", "same question", "same parameters", *(f"{n}-gram" for n in sizes),
                 *(f"{n}-grams set aside" for n in sizes)),
        rows=tuple(
            (
                name,
                f"{report.num_rows:,}",
                f"{report.num_exact:,}",
                "-" if report.num_same_parameters is None else f"{report.num_same_parameters:,}",
                *(f"{ngram.num_rows:,}" for ngram in report.ngrams),
                *(f"{ngram.num_boilerplate:,}" for ngram in report.ngrams),
            )
            for name, report in overlaps.items()
        ),
        note="8-gram, 13-gram: rows that share as many words in a row with a training row; set aside: n-grams of more "
        "than 1 % of the training rows, and what overlaps with them",
    )  # fmt: skip


def _pairs(overlaps: Mapping[str, OverlapReport]) -> Table:
    def rows() -> Iterator[tuple[str, ...]]:
        for name, report in overlaps.items():
            for pair in report.pairs:
                yield name, pair.kind, pair.eval_origin, pair.train_origin, pair.shared

    return Table(
        title="First rows that overlap",
        columns=("set", "share", "evaluation row", "training row", "words"),
        rows=tuple(rows()),
    )
