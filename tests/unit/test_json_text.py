"""Objects of a file that may be torn, and of texts that are none."""

from __future__ import annotations

import pytest

from whet.json_text import objects_of_lines, read_object


@pytest.mark.parametrize("text", ["", "[1]", "3", '{"a": ', b"\xff", "[" * 100_000, '{"a":' * 100_000])
def test_a_text_that_is_no_object_is_none(text):
    assert read_object(text) is None


def test_torn_lines_and_other_values_are_left_out():
    content = b'{"step": 1}\n\n[2]\n\xff\xfe\n{"step": 3}\n{"step": 4'
    assert list(objects_of_lines(content)) == [{"step": 1}, {"step": 3}]
