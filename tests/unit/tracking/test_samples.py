"""samples.jsonl: short, one line an answer, and what a resume makes again is taken out."""

from __future__ import annotations

import json

from whet.tracking import samples
from whet.tracking.samples import Shown


def shown(text: str = "t") -> Shown:
    return Shown(set="a", id="r", prompt="p" * 9000, text=text, golds=("g",), is_correct=None, was_cut=False)


def steps(folder) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / samples.FILE_NAME).read_text().splitlines()]


def test_answers_are_added_and_their_texts_bounded(tmp_path):
    samples.append(tmp_path, 4, [shown("x" * 9000 + "\u202e"), shown()])
    samples.append(tmp_path, 8, [])
    lines = [json.loads(line) for line in (tmp_path / samples.FILE_NAME).read_text().splitlines()]
    assert [len(line["text"]) for line in lines] == [4000, 1] and len(lines[0]["prompt"]) == 4000


def test_a_resume_takes_out_what_it_answers_again(tmp_path):
    for step in (4, 8, 12):
        samples.append(tmp_path, step, [shown()])
    (tmp_path / samples.FILE_NAME).open("a").close()
    samples.begin(tmp_path, 8)
    assert steps(tmp_path) == [4, 8]
    samples.begin(tmp_path, 0)
    assert steps(tmp_path) == []
