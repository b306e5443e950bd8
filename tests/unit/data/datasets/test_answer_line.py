import time

import pytest

from whet.data.datasets.answer_line import find_answer, find_last_line


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 4", "4"),
        ("2+2 is easy.\nAnswer: 4\n", "4"),
        ("Answer: 4\n\nQuestion: 3+3?\nAnswer: 6", "4"),
        ("**Answer:** four", "four"),
        ("> answer : `4`", "4"),
        ("ANSWER: 4", "4"),
        ("The answer: 4", "4"),
        ("An answer: 3\nAnswer: 4", "4"),
        ("Answer:\n4\n", "4"),
        ("Answer:\n1 2\n3 4\n\nmore", "1 2\n3 4"),
        ("Answer:", ""),
        ("Answers vary; the answered one is 4", None),
        ("4", None),
        ("", None),
    ],
)
def test_the_first_marker_gives_the_answer(text, answer):
    assert find_answer(text) == answer


def test_the_last_line_is_found_without_decoration():
    assert find_last_line('Some thought.\n"mother"\n\n') == "mother"
    assert find_last_line(" \n") == ""


@pytest.mark.parametrize("piece", ["answer ", "*" * 50, "Answer:\n", " \n", "#", "answer:"])
def test_hostile_text_takes_no_time(piece):
    start = time.perf_counter()
    find_answer(piece * 500_000)
    find_last_line(piece * 500_000)
    assert time.perf_counter() - start < 1.0
