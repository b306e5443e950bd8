"""A newcomer's file is understood, or refused with what was seen in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whet.data.first_look import look_at
from whet.errors import DataError

ROWS = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(5)]


def table(path: Path, header: tuple[str, ...], delimiter: str = ",") -> str:
    lines = [delimiter.join(header), *(delimiter.join(row.values()) for row in ROWS)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return str(path)


def asked(name: str, **options: str) -> list[tuple[str, str]]:
    return [(row.example.messages[0].content, row.example.messages[1].content) for row in look_at(name, **options).rows]


EXPECTED = [(row["question"], row["answer"]) for row in ROWS]


@pytest.mark.parametrize(
    ("file", "header", "delimiter"),
    [
        ("a.csv", ("question", "answer"), ","),
        ("a.csv", ("Question", " ANSWER "), ","),
        ("a.csv", ("Prompt", "Response"), ","),
        ("a.csv", ("instruction", "output"), ","),
        ("a.csv", ("Question", "Answer"), ";"),
        ("a.tsv", ("question", "answer"), "\t"),
        ("a.txt", ("question", "answer"), "\t"),
        ("a.csv", ("text", "label"), ","),
        ("a.CSV", ("input", "output"), ","),
    ],
)
def test_columns_are_found_under_usual_names_and_delimiters(tmp_path, file, header, delimiter):
    assert asked(table(tmp_path / file, header, delimiter)) == EXPECTED


def test_two_columns_may_be_named_by_the_user(tmp_path):
    name = table(tmp_path / "a.csv", ("Frage", "Antwort"))
    with pytest.raises(DataError, match="columns: 'Frage', 'Antwort'") as caught:
        look_at(name)
    assert f"whet init --data {name} --question Frage --answer Antwort" in str(caught.value)
    assert asked(name, question="Frage", answer="Antwort") == EXPECTED
    with pytest.raises(DataError, match="one column alone"):
        look_at(name, question="Frage")
    with pytest.raises(DataError, match="'Wort'"):
        look_at(name, question="Frage", answer="Wort")


def test_named_columns_win_over_a_format_that_other_columns_would_have(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({**row, "prompt": "P", "completion": "C"}) + "\n" for row in ROWS))
    assert asked(str(path), question="question", answer="answer") == EXPECTED
    assert asked(str(path))[0] == ("P", "C")


def test_conversations_keep_their_form_and_other_columns_are_told_and_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path.write_text(json.dumps({"messages": turns, "source": "web", "id": 7}) + "\n")
    look = look_at(str(path))
    assert look.format_name == "messages"
    assert look.rows[0].value == {"messages": turns}
    assert any("not used: source, id" in note for note in look.notes)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.xlsx", b"PK", "save the sheet as CSV"),
        ("a.pdf", b"%PDF", "use one of .jsonl"),
        ("a.csv", b"question,answer\n", "holds no rows"),
        ("a.csv", b"question,answer\ngr\xfc\xdfe,ja\n", "Excel: CSV UTF-8"),
        ("a.csv", b"text\nOnce upon a time\n", "columns: 'text'"),
        ("a.jsonl", b'"a text"\n', "no columns"),
        ("a.jsonl", b'{"question": "a", "answer"\n', "torn or invalid JSON"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_what_was_seen(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        look_at(str(path))
    assert expected in str(caught.value) and str(path) in str(caught.value)


def test_a_slip_in_the_name_is_answered_with_the_file_that_is_there(tmp_path):
    table(tmp_path / "rows.csv", ("question", "answer"))
    with pytest.raises(DataError, match=r"did you mean rows\.csv"):
        look_at(str(tmp_path / "row.csv"))


def test_unusable_rows_are_set_apart_with_their_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("question,answer\nWhy?,Because\nHow?,\nWho?,Me\n")
    look = look_at(str(path))
    assert [row.origin for row in look.bad] == [f"{path}:3"] and "empty text" in look.bad[0].reason
    assert len(look.rows) == 2


def test_a_comma_inside_quotes_is_no_delimiter(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('"question";"answer, short"\nWhy?;Because\n')
    assert asked(str(path), question="question", answer="answer, short") == [("Why?", "Because")]


def test_the_first_rows_of_a_long_file_are_enough(tmp_path):
    assert len(look_at(table(tmp_path / "a.csv", ("question", "answer")), most_rows=2).rows) == 2
