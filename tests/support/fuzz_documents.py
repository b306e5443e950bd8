"""What hypothesis draws for each target: damaged entries of the corpus, and documents of the target's own words."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from fuzz_inputs import ODD_VALUES, WORDS, corpus_of, join_parts, mutated, parts_of
from hypothesis import strategies as st

_WORD = re.compile(rb"[A-Za-z_#\\<|.-]{2,40}")
_MAX_WORDS = 400


@cache
def _own_words(target: str) -> tuple[bytes, ...]:
    """Words of the target's corpus: keys, marks and values that its parser knows."""
    found = {word: None for entry in corpus_of(target) for word in _WORD.findall(entry)}
    return tuple(list(found)[:_MAX_WORDS]) or (b"x",)


def documents(target: str) -> st.SearchStrategy[bytes]:
    """Inputs for `target`: three kinds, in equal shares."""
    entries = corpus_of(target)
    damaged = st.builds(
        lambda entry, random: mutated(entry, entries, WORDS, random),
        st.sampled_from(entries), st.randoms(use_true_random=False),
    )  # fmt: skip
    return st.one_of(damaged, _texts(target), _json(target))


def _texts(target: str) -> st.SearchStrategy[bytes]:
    """Words, marks, line breaks and any text, one after the other."""
    glue = st.sampled_from((b" ", b"\n", b": ", b", ", b"\n  - ", b"\n  ", b"=", b'"'))
    piece = st.one_of(
        st.sampled_from(_own_words(target)), st.sampled_from(WORDS), glue, glue, st.text(max_size=6).map(_encoded),
        st.integers().map(lambda number: str(number).encode()),
    )  # fmt: skip
    return st.lists(piece, max_size=40).map(b"".join)


def _json(target: str) -> st.SearchStrategy[bytes]:
    """JSON with the target's keys, in as many parts or lines as an entry has."""
    words = _own_words(target)
    keys = st.one_of(st.sampled_from([word.decode("latin-1") for word in words]), st.text(max_size=3))
    plain: st.SearchStrategy[Any] = st.one_of(
        st.sampled_from(ODD_VALUES), st.text(max_size=12), st.integers(), st.floats(), keys
    )
    nested = st.recursive(plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5))
    objects = st.dictionaries(keys, nested, max_size=8)
    lines = st.lists(objects, min_size=1, max_size=3).map(
        lambda rows: b"\n".join(json.dumps(row).encode() for row in rows)
    )
    num_parts = max(len(parts_of(entry, 99)) for entry in corpus_of(target))
    return st.lists(lines, min_size=1, max_size=num_parts).map(lambda parts: join_parts(*parts))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
