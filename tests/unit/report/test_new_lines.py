"""A log that grows while it is read: every line once, no torn one, and a log that was written anew from its start."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.report.new_lines import Place, parse_place, read_new_lines


def append(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def test_each_look_gives_what_is_new_and_leaves_the_torn_line_for_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append(path, b'{"step": 1}\n{"step": 2}\n{"st')
    first = read_new_lines(path, Place())
    assert first.objects == ({"step": 1}, {"step": 2}) and not first.is_anew
    assert read_new_lines(path, first.place).objects == ()
    append(path, b'ep": 3}\nno json\n{"step": 4}\n')
    second = read_new_lines(path, parse_place(str(first.place)))
    assert second.objects == ({"step": 3}, {"step": 4}) and not second.is_anew


@given(cuts=st.lists(st.integers(0, 300), max_size=8), max_bytes=st.integers(12, 64))
def test_however_a_log_is_cut_into_writes_each_line_is_read_once(tmp_path_factory, cuts, max_bytes):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    lines = [{"step": number} for number in range(20)]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    ends = [*sorted(min(cut, len(content)) for cut in cuts), len(content)]
    found, place, start = [], Place(), 0
    for end in ends:
        append(path, content[start:end])
        start, has_more = end, True
        while has_more:
            look = read_new_lines(path, place, max_bytes=max_bytes)
            found += look.objects
            place, has_more = look.place, look.has_more
    assert found == lines


def test_a_log_that_was_replaced_is_read_from_its_first_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append(path, b'{"step": 1}\n{"step": 2}\n')
    place = read_new_lines(path, Place()).place
    anew = tmp_path / "anew"
    append(anew, b'{"step": 1}\n{"step": 9}\n{"step": 10}\n')
    anew.replace(path)
    look = read_new_lines(path, place)
    assert look.is_anew and [each["step"] for each in look.objects] == [1, 9, 10]


def test_a_log_that_was_written_over_in_place_is_read_from_its_first_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append(path, b'{"step": 1}\n{"step": 2}\n')
    place = read_new_lines(path, Place()).place
    path.write_bytes(b'{"step": 1}\n{"step": 7}\n{"step": 8}\n')
    look = read_new_lines(path, place)
    assert look.is_anew and [each["step"] for each in look.objects] == [1, 7, 8]


def test_a_link_or_a_pipe_holds_nothing(tmp_path):
    append(tmp_path / "elsewhere", b'{"step": 1}\n')
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "nothing"):
        assert read_new_lines(tmp_path / name, Place()).objects == ()


@pytest.mark.parametrize("text", ["", "1-2", "a-b-c", "-1-2-3", "1-2-3-4", "9" * 400 + "-1-1"])
def test_a_place_that_is_none_is_the_beginning(text):
    assert parse_place(text) == Place()
