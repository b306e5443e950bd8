"""The shared answers of bases: whole or not there, never another model's, never more than they may take."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from whet.evaluation import answer_cache
from whet.evaluation.answer_cache import find_answers, keep_answers
from whet.evaluation.questions import AnswerKey
from whet.types import Generation

KEY = AnswerKey(weights="w", rows="r", decoding="greedy", code="c")


def generations(num_rows: int, text: str = "a\u2028\n\ud800") -> list[Generation]:
    return [
        Generation(
            example_id=f"r{i}", prompt="", text=f"{text}{i}", num_new_tokens=i, stopped="stop_string", seconds=0.1
        )
        for i in range(num_rows)
    ]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path))
    return tmp_path / "answers"


def test_kept_answers_are_found_under_their_key_alone():
    assert find_answers(KEY) == []
    keep_answers(KEY, generations(3))
    assert find_answers(KEY) == generations(3)
    for name in ("weights", "rows", "decoding", "code"):
        assert find_answers(replace(KEY, **{name: "other"})) == []


def test_more_answers_replace_fewer_and_not_the_other_way_round():
    for num_rows, num_kept in ((2, 2), (5, 5), (3, 5)):
        keep_answers(KEY, generations(num_rows))
        assert find_answers(KEY) == generations(num_kept)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content.replace(b"r1", b"r2"),
        lambda content: content.replace(b'"weights": "w"', b'"weights": "v"'),
        lambda content: b"",
        lambda content: b"[1]\n",
        lambda content: b"[" * 100_000,
        lambda content: content.replace(b'"stop_string"', b'"nonsense"'),
    ],
)
def test_a_damaged_file_is_not_used_and_is_replaced(folder, damage):
    keep_answers(KEY, generations(3))
    (path,) = folder.glob("*.jsonl")
    path.write_bytes(damage(path.read_bytes()))
    assert find_answers(KEY) == []
    keep_answers(KEY, generations(2))
    assert find_answers(KEY) == generations(2)


def test_what_was_not_used_for_longest_makes_room(folder, monkeypatch):
    keep_answers(KEY, generations(3))
    (path,) = folder.glob("*.jsonl")
    size = path.stat().st_size
    path.unlink()
    monkeypatch.setattr(answer_cache, "MAX_BYTES", int(3.5 * size))
    keys = [replace(KEY, rows=str(number)) for number in range(3)]
    for number, key in enumerate(keys):
        keep_answers(key, generations(3))
        for path in folder.glob("*.jsonl"):
            if path.name.startswith(key.digest):
                os.utime(path, (number + 10, number + 10))
    assert find_answers(keys[0])  # from now on the one that was used last
    keep_answers(replace(KEY, rows="3"), generations(3))
    assert sum(path.stat().st_size for path in folder.glob("*.jsonl")) <= 3.5 * size
    assert find_answers(keys[0]) and not find_answers(keys[1])


def test_answers_that_take_more_than_all_there_is_are_not_kept(folder, monkeypatch):
    monkeypatch.setattr(answer_cache, "MAX_BYTES", 100)
    keep_answers(KEY, generations(3))
    assert list(folder.glob("*.jsonl")) == []


WRITER = """
import sys
from whet.evaluation.answer_cache import find_answers, keep_answers
from whet.evaluation.questions import AnswerKey
from whet.types import Generation
for turn in range(60):
    key = AnswerKey(weights="w", rows=str(turn % 3), decoding="greedy", code="c")
    kept = find_answers(key)
    assert [g.text for g in kept] == [f"{key.rows} {i}" for i in range(len(kept))], kept
    keep_answers(key, [
        Generation(example_id=str(i), prompt="", text=f"{key.rows} {i}", num_new_tokens=1, stopped="length")
        for i in range(turn * 7 + int(sys.argv[1]))
    ])
"""


@pytest.mark.slow
def test_processes_that_write_at_the_same_time_leave_whole_answers_and_the_most():
    started = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(number)], stderr=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    for process in started:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    for turn in (57, 58, 59):
        kept = find_answers(AnswerKey(weights="w", rows=str(turn % 3), decoding="greedy", code="c"))
        assert len(kept) == turn * 7 + 2
