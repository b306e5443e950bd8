"""Objects of a file that may be torn, and of texts that are none."""

from __future__ import annotations

import pytest

from whet.json_text import MOST_LEVELS, nests_deeply, objects_of_lines, read_object


@pytest.mark.parametrize("text", ["", "[1]", "3", '{"a": ', b"\xff", "[" * 100_000, '{"a":' * 100_000])
def test_a_text_that_is_no_object_is_none(text):
    assert read_object(text) is None


@pytest.mark.parametrize("wrap", [lambda value: [value, 2], lambda value: {"a": 1, "b": value}])
def test_what_nests_deeply_is_told_on_every_python(wrap):
    value: object = "[" * 1000
    for depth in range(2 * MOST_LEVELS):
        assert nests_deeply(value) == (depth > MOST_LEVELS), depth
        value = wrap(value)
    assert not nests_deeply([[1, 2], {"a": [3]}] * 1000)


def test_torn_lines_and_other_values_are_left_out():
    content = b'{"step": 1}\n\n[2]\n\xff\xfe\n{"step": 3}\n{"step": 4'
    assert list(objects_of_lines(content)) == [{"step": 1}, {"step": 3}]
