"""Semantic similarity: cosine between the sentence vectors of answer and gold (all-MiniLM-L6-v2), the best over golds.

From -1 to 1. It measures being about the same thing, not being right: a wrong number in the right sentence scores high.
MiniLM reads the first 256 word pieces of a text (about 190 English words); `count_cut` says how many texts are longer.
An empty answer has no meaning to compare and scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from whet.evaluation.metrics.answered_row import AnsweredRow
from whet.evaluation.metrics.encoder_weights import fetch_encoder
from whet.evaluation.metrics.sentence_encoder import SentenceEncoder, load_encoder


def score_rows(rows: Sequence[AnsweredRow], encoder: SentenceEncoder | None = None) -> list[float | None]:
    """One cosine per row; None without golds. The encoder is fetched and loaded once per process if none is given."""
    texts = _distinct_texts(rows)
    if not texts:
        return [None] * len(rows)
    vectors, _ = (encoder or default_encoder()).embed(texts)
    place = {text: index for index, text in enumerate(texts)}
    scores: list[float | None] = []
    for row in rows:
        if not row.golds or not row.text.strip():
            scores.append(0.0 if row.golds else None)
            continue
        answer = vectors[place[row.text]]
        scores.append(max(float(answer @ vectors[place[gold]]) for gold in row.golds))
    return scores


def count_cut(rows: Sequence[AnsweredRow], encoder: SentenceEncoder | None = None) -> tuple[int, int]:
    """How many distinct answers and golds are longer than the encoder reads, and how many there are."""
    texts = _distinct_texts(rows)
    tokenizer = (encoder or default_encoder()).tokenizer
    return sum(bool(encoding.overflowing) for encoding in tokenizer.encode_batch(texts)), len(texts)


@lru_cache(maxsize=1)
def default_encoder() -> SentenceEncoder:
    """all-MiniLM-L6-v2 on the CPU."""
    return load_encoder(fetch_encoder())


def _distinct_texts(rows: Sequence[AnsweredRow]) -> list[str]:
    scored = [row for row in rows if row.golds]
    return list(dict.fromkeys(text for row in scored for text in (row.text, *row.golds)))
