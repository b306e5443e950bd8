"""Types of the schema are found by path and put into words."""

from __future__ import annotations

import pytest

from whet.recipe.fields import all_keys, choices, describe, scalar_types, section_of, type_at
from whet.recipe.schema import Data, Source


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("optim", "lr"), "a number, above 0"),
        (("train", "max_steps"), "a whole number, at least 1, or null"),
        (("model", "revision"), "text or null"),
        (("model", "dtype"), "one of auto, float32, bfloat16, float64"),
        (("adapter", "targets"), "all-linear or a list of texts"),
        (("optim", "betas"), "a list of 2 values, each a number, at least 0, below 1"),
        (("data", "train"), "a list of sections"),
        (("data",), "a section of keys"),
        (("data", "train", 3, "rows"), "a whole number, at least 1, or null"),
        (("data", "train", 0, "options", "anything"), "true or false or a whole number or a number or text"),
    ],
)
def test_a_field_is_described_in_words(path, words):
    assert describe(type_at(path)) == words


def test_sections_and_scalar_types_are_found_below_lists_and_unions():
    assert section_of(type_at(("data",))) is Data
    assert section_of(type_at(("evaluate", 0, "source"))) is Source
    assert section_of(type_at(("data", "train"))) is Source
    assert scalar_types(type_at(("train", "threads"))) == {int, type(None)}
    assert scalar_types(type_at(("data", "train", 0, "options", "x"))) == {bool, int, float, str}
    assert choices(type_at(("adapter", "method"))) == ("lora", "dora", "none")


def test_keys_are_listed_with_lists_entered_at_zero():
    keys = all_keys()
    assert ("data", "train", 0, "source") in keys and ("evaluate", 0, "source", "rows") in keys
    assert len(keys) == len(set(keys))
