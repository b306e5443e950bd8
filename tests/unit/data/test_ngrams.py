"""The vectorised, hashed count is the count of a plain loop over tuples of words."""

import re
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from whet.data.ngrams import NgramCounter, split_words

WORDS = st.sampled_from(["a", "b", "c", "A", "b,", "(c)", "\n\n", "\n \n", "\n", "x_1", "\u00e9"])
TEXTS = st.lists(st.lists(WORDS, max_size=12).map(" ".join), max_size=6)


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    found = set()
    for paragraph in re.split(r"\n\s*\n", text):
        words = re.findall(r"\w+", unicodedata.normalize("NFKC", paragraph).casefold())
        found |= {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
    return found


@settings(max_examples=150, deadline=None)
@given(known=TEXTS, chunks=st.lists(TEXTS, max_size=3), sizes=st.sets(st.integers(1, 5), min_size=1))
def test_counts_are_those_of_a_plain_loop(known, chunks, sizes):
    counter = NgramCounter(known, sorted(sizes))
    for number, chunk in enumerate(chunks):
        counter.add(chunk, [f"{number}.{i}" for i in range(len(chunk))])
    stream = [(f"{number}.{i}", text) for number, chunk in enumerate(chunks) for i, text in enumerate(chunk)]
    for n in sizes:
        table = counter.tables[n]
        for row, start, key in zip(table.rows, table.starts, table.key_of, strict=True):
            words = tuple(counter.words(start, n).split(" "))
            assert words in ngrams(known[row], n)
            having = [name for name, text in stream if words in ngrams(text, n)]
            assert table.frequency[key] == len(having)
            assert table.first_name.get(key) == (having[0] if having else None)
        assert len(table.keys) == len(set().union(*(ngrams(text, n) for text in known)))


def test_an_ngram_does_not_cross_a_blank_line():
    counter = NgramCounter(["one two\n\nthree"], [2])
    assert [counter.words(start, 2) for start in counter.tables[2].starts] == ["one two"]


def test_what_is_kept_of_the_stream_does_not_grow_with_it():
    counter = NgramCounter(["one two three"], [2])
    before = len(counter.ids), len(counter.tables[2].keys)
    for start in range(0, 3000, 100):
        counter.add([f"new words {i} come by" for i in range(start, start + 100)], ["n"] * 100)
    assert (len(counter.ids), len(counter.tables[2].keys)) == before
    assert len(counter.__dict__["_vocabulary"]) == 3
    assert not counter.tables[2].first_name


def test_the_order_of_words_counts():
    counter = NgramCounter(["a b c d"], [4])
    counter.add(["d c b a", "b a c d", "a a b b c c d d"], ["1", "2", "3"])
    assert counter.tables[4].frequency.tolist() == [0]


def test_words_are_without_case_punctuation_and_unicode_forms():
    (first,), (second,) = split_words("It's \uff11,000 miles!"), split_words("it S 1 000\tMILES")
    assert first == second == ["it", "s", "1", "000", "miles"]
