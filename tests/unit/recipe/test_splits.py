"""A source's stretch of rows, compared with Python's own slices."""

from __future__ import annotations

import itertools

import pytest

from whet.recipe.schema import Source
from whet.recipe.splits import num_rows_taken, parse_split, share_rows, source_kind

NUM_ROWS = 12


def rows_of(source: Source) -> set[int]:
    """Brute force: the row numbers that the source names in a split of NUM_ROWS rows."""
    stretch = parse_split(source.split)
    assert stretch is not None
    return set(list(range(NUM_ROWS))[stretch.start : stretch.stop][: source.rows])


def all_sources() -> list[Source]:
    splits = ["train", "train[3:]", "train[:3]", "train[2:5]", "train[5:9]", "train[0:12]"]
    return [Source(source="o/d", split=split, rows=rows) for split in splits for rows in (None, 1, 3)]


def test_shared_rows_are_exactly_those_of_the_brute_force():
    for one, other in itertools.product(all_sources(), repeat=2):
        assert share_rows(one, other) == bool(rows_of(one) & rows_of(other)), (one, other)


def test_number_of_rows_taken_is_that_of_the_brute_force():
    for source in all_sources():
        assert num_rows_taken(source, NUM_ROWS) == len(rows_of(source))


def test_percentages_are_shares_of_the_split():
    assert num_rows_taken(Source(source="o/d", split="train[:10%]"), 200) == 20
    assert num_rows_taken(Source(source="o/d", split="train[10%:]", rows=7), 200) == 7


@pytest.mark.parametrize("split", ["train[5]", "train[", "train[::2]", "[:5]", "", "train[-5:]", "a[:1]b"])
def test_what_is_no_slice_is_none(split):
    assert parse_split(split) is None


FILE = {"source": "data/pairs.jsonl"}


@pytest.mark.parametrize(
    ("format_name", "one", "other", "is_shared"),
    [
        ("dolly", "train", "validation", False),
        ("squad", "train[:10]", "train[10:]", False),
        ("squad", "train", "all", True),
        ("dolly", "all", "test", True),
        ("auto", "validation", "train", False),
        ("auto", "all", "validation", True),
        ("auto", "all[:5]", "train[:5]", False),
        ("gsm8k", "all[:5]", "train[:5]", True),
        ("gsm8k", "all[:5]", "train[5:]", False),
        ("gsm8k", "pairs", "train", True),
        ("gsm8k", "pairs[:5]", "all[5:]", False),
    ],
)
def test_a_file_is_one_split_unless_its_format_may_cut_it(format_name, one, other, is_shared):
    sources = [Source(**FILE, format=format_name, split=split) for split in (one, other)]
    assert share_rows(*sources) == share_rows(*sources[::-1]) == is_shared


def test_kinds_are_read_off_the_name():
    names = {"rows.jsonl": "file", "D/ROWS.CSV": "file", "reasoning-gym:lcm": "generated", "openai/gsm8k": "hub"}
    assert {name: source_kind(Source(source=name)) for name in names} == names


def test_another_dataset_configuration_or_generator_setting_is_not_the_same_rows():
    assert not share_rows(Source(source="o/d", config="a"), Source(source="o/d", config="b"))
    one = Source(source="reasoning-gym:lcm", rows=1, options={"a": 1})
    assert not share_rows(one, Source(source="reasoning-gym:lcm", rows=1, options={"a": 2}))
    assert share_rows(one, one)
