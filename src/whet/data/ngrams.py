"""In how many texts of a stream do the n-grams of some known texts stand? Bounded memory: only the known ones count.

A word is a run of letters, digits and underscores, without case; an n-gram never crosses a blank line, so that an
instruction put under every question has no n-gram in common with the question. n-grams are compared by a 64-bit hash:
sum over j of h(word_j) M^j mod 2^64, with h from BLAKE2b. Two different ones fall together with a chance of about
1e-6 for 1e5 known and 1e8 streamed n-grams.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

_PARAGRAPH = re.compile(r"\n\s*\n")
_WORD = re.compile(r"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def split_words(text: str) -> list[list[str]]:
    """The words of each paragraph."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return [_WORD.findall(paragraph) for paragraph in _PARAGRAPH.split(folded)]


class NgramCounter:
    """Counts, for every n-gram of `texts`, the texts given to `add` that hold it."""

    def __init__(self, texts: Sequence[str], sizes: Sequence[int]) -> None:
        self._vocabulary: dict[str, int] = {}
        paragraphs = [split_words(text) for text in texts]
        for word in (word for row in paragraphs for words in row for word in words):
            self._vocabulary.setdefault(word, len(self._vocabulary) + 1)
        self._words = ["", *self._vocabulary]
        self._hashes = np.array([_hash_word(word) for word in self._words], dtype=np.uint64)
        self.ids, rows = self._number_words(paragraphs)
        """int64: the words of the known texts one behind the other, 0 between paragraphs"""
        self.tables = {n: NgramTable(self, n, rows) for n in sizes}

    def add(self, texts: Sequence[str], names: Sequence[str]) -> None:
        """Count the n-grams of `texts`; `names` says where each text came from."""
        ids, rows = self._number_words([split_words(text) for text in texts])
        for table in self.tables.values():
            table.count(*self.hash_ngrams(ids, table.n), rows, names)

    def hash_ngrams(self, ids: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """uint64 hashes and int64 beginnings of all n-grams that hold no unknown word and cross no border."""
        if len(ids) < n:
            return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
        num_zeros = np.concatenate([[0], np.cumsum(ids == 0)])
        starts = np.flatnonzero(num_zeros[n:] == num_zeros[:-n])
        hashes = np.zeros(len(starts), dtype=np.uint64)
        for j in range(n):
            hashes = hashes * _MULTIPLIER + self._hashes[ids[starts + j]]
        return hashes, starts

    def words(self, start: int, n: int) -> str:
        """The n-gram that begins at word `start` of the known texts."""
        return " ".join(self._words[i] for i in self.ids[start : start + n])

    def _number_words(self, rows: Sequence[list[list[str]]]) -> tuple[np.ndarray, np.ndarray]:
        """Word numbers of all texts in a row, 0 for unknown words and between paragraphs; and the text of each."""
        number = self._vocabulary.get
        ids: list[int] = []
        lengths = []
        for paragraphs in rows:
            before = len(ids)
            for words in paragraphs:
                ids += [number(word, 0) for word in words]
                ids.append(0)
            lengths.append(len(ids) - before)
        return np.array(ids, dtype=np.int64), np.repeat(np.arange(len(lengths)), lengths)


class NgramTable:
    """The n-grams of the known texts for one n."""

    def __init__(self, counter: NgramCounter, n: int, rows: np.ndarray) -> None:
        self.n = n
        hashes, self.starts = counter.hash_ngrams(counter.ids, n)
        self.rows = rows[self.starts]
        """int64: the known text of each n-gram, in reading order"""
        self.keys, self.key_of = np.unique(hashes, return_inverse=True)
        self.frequency = np.zeros(len(self.keys), dtype=np.int64)
        """int64 per key: streamed texts that hold it"""
        self.first_name: dict[int, str] = {}
        """key -> name of the first streamed text that holds it"""

    def count(self, hashes: np.ndarray, starts: np.ndarray, rows: np.ndarray, names: Sequence[str]) -> None:
        """Count each n-gram once per streamed text."""
        if not len(self.keys) or not len(hashes):
            return
        places = np.minimum(np.searchsorted(self.keys, hashes), len(self.keys) - 1)
        is_known = self.keys[places] == hashes
        pairs = np.unique(rows[starts[is_known]] * len(self.keys) + places[is_known])
        for pair in pairs.tolist():
            row, key = divmod(pair, len(self.keys))
            self.first_name.setdefault(key, names[row])
        self.frequency += np.bincount(pairs % len(self.keys), minlength=len(self.keys))


def _hash_word(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
