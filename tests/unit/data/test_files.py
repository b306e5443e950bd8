import csv
import json

import pytest

from whet.data.files import read_rows
from whet.errors import DataError

GOOD = '{"question": "2+2?", "answer": "4"}\n'


def _read(tmp_path, content: bytes, name="rows.jsonl"):
    path = tmp_path / name
    path.write_bytes(content)
    return list(read_rows(path, name))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"question": "2+2?", "answer": "4"', "torn or invalid JSON"),
        (b'{"a": 1} {"b": 2}', "text after the value"),
        (b'{"question": "\xff", "answer": "4"}', "not UTF-8"),
        (b'{"question": NaN, "answer": "4"}', "found NaN"),
        (b'{"question": -Infinity, "answer": "4"}', "found -Infinity"),
        (b'{"question": "a", "question": "b", "answer": "4"}', "duplicate key (field 'question', found 2 times"),
        (b'{"question": "a\x00b", "answer": "4"}', "torn or invalid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5_000, "5000 digits"),
    ],
    ids=["torn", "two-values", "utf8", "nan", "infinity", "duplicate-key", "raw-nul", "deep", "huge-integer"],
)
def test_an_unreadable_line_is_a_fault_of_its_own_line(tmp_path, content, reason):
    rows = _read(tmp_path, GOOD.encode() + content + b"\n" + GOOD.encode())
    assert [row.origin for row in rows] == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"]
    assert [row.fault is None for row in rows] == [True, False, True]
    assert reason in rows[1].fault


def test_blank_lines_bom_and_crlf_are_accepted_and_lines_are_counted_with_them(tmp_path):
    rows = _read(tmp_path, b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n\r\n" + GOOD.encode().replace(b"\n", b"\r\n"))
    assert [(row.origin, row.value["answer"]) for row in rows] == [("rows.jsonl:1", "4"), ("rows.jsonl:4", "4")]


def test_a_row_of_one_megabyte_is_accepted(tmp_path):
    row = json.dumps({"question": "x" * 1_000_000, "answer": "4"}).encode()
    assert len(_read(tmp_path, row)[0].value["question"]) == 1_000_000


def test_line_separators_inside_text_do_not_cut_a_row(tmp_path):
    row = json.dumps({"question": "a\u2028b\u0085c", "answer": "4"}, ensure_ascii=False).encode()
    assert _read(tmp_path, row)[0].value["question"] == "a\u2028b\u0085c"


def test_rows_of_a_json_array_carry_their_line(tmp_path):
    rows = _read(tmp_path, b'\n[\n {"a": "1"},\n {"a":\n  "2"},\n\n {"a": "3"}\n]\n', "rows.json")
    assert [(row.origin, row.value["a"]) for row in rows] == [
        ("rows.json:3", "1"), ("rows.json:4", "2"), ("rows.json:7", "3"),
    ]  # fmt: skip


@pytest.mark.parametrize("tail", [b"", b",", b",]", b", {", b" {}]"])
def test_a_torn_json_array_is_a_fault(tmp_path, tail):
    rows = _read(tmp_path, b'[{"a": "1"}' + tail, "rows.json")
    assert rows[0].value == {"a": "1"}
    assert rows[-1].fault is not None


def test_a_json_file_with_one_object_per_line_is_read_as_json_lines(tmp_path):
    assert [row.origin for row in _read(tmp_path, GOOD.encode() * 2, "rows.json")] == ["rows.json:1", "rows.json:2"]


def test_csv_rows_carry_the_line_they_begin_on(tmp_path):
    content = b'question,answer\n"two\nlines",4\n\nplain,5\n'
    rows = _read(tmp_path, content, "rows.csv")
    assert [(row.origin, row.value["question"]) for row in rows] == [
        ("rows.csv:2", "two\nlines"), ("rows.csv:5", "plain"),
    ]  # fmt: skip


def test_csv_faults_are_found_and_the_global_field_limit_is_put_back(tmp_path):
    before = csv.field_size_limit(200_000)
    content = b"question,answer\na,1,2\n" + b"x" * 1_000_000 + b',4\n"torn,5\n'
    rows = _read(tmp_path, content, "rows.csv")
    assert "wrong number of columns (found 3, expected 2" in rows[0].fault
    assert len(rows[1].value["question"]) == 1_000_000
    assert "torn or invalid CSV" in rows[2].fault
    assert csv.field_size_limit(before) == 200_000


def test_a_csv_header_with_a_column_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match="names a column twice"):
        _read(tmp_path, b"a,a\n1,2\n", "rows.csv")


def test_parquet_rows_are_read(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"question": ["a", "b"], "answer": ["1", None]}), tmp_path / "rows.parquet")
    rows = list(read_rows(tmp_path / "rows.parquet", "rows.parquet"))
    assert [(row.origin, row.value["answer"]) for row in rows] == [
        ("rows.parquet:row 1", "1"), ("rows.parquet:row 2", None),
    ]  # fmt: skip
    with pytest.raises(DataError, match="not a readable Parquet file"):
        _read(tmp_path, b"not parquet", "torn.parquet")


def test_a_missing_file_names_the_nearest_one(tmp_path):
    (tmp_path / "train.jsonl").write_text(GOOD)
    with pytest.raises(DataError, match=r"trian.jsonl: file does not exist\n  mend: did you mean train.jsonl\?"):
        list(read_rows(tmp_path / "trian.jsonl", "trian.jsonl"))


def test_directories_empty_files_and_unknown_kinds_are_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text(GOOD)
    with pytest.raises(DataError, match=r"is a directory.*\n.*train.jsonl"):
        list(read_rows(tmp_path, "folder"))
    for content in (b"", b"\n\n", b"\xef\xbb\xbf"):
        with pytest.raises(DataError, match="holds no rows"):
            _read(tmp_path, content)
    with pytest.raises(DataError, match="holds no rows"):
        _read(tmp_path, b"[]", "rows.json")
    with pytest.raises(DataError, match=r"cannot be read from \.txt"):
        _read(tmp_path, b"text", "rows.txt")
