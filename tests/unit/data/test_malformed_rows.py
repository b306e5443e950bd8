"""Malformed inputs, one table: each is refused with file, line, field, found and expected, or accepted by name.

Rows 1 to 19 of the table are the cases of a battery that loaders in use accept in part: they train on "None".
"""

import json
import re

import pytest

from whet.data.sources import BadRow, open_source
from whet.errors import DataError, RecipeError, WhetError
from whet.recipe.schema import Source

GOOD = b'{"question": "2+2?", "answer": "4"}\n'
USER, ASSISTANT = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
CALL = {"function": {"name": "add", "arguments": {"a": 2}}}


def _line(**row):
    return json.dumps(row).encode() + b"\n"


def _chat(*turns, **row):
    return _line(messages=turns, **row)


def _share(*turns):
    return _line(conversations=turns)


def _read(folder, content, *, name="rows.jsonl", **source):
    (folder / name).write_bytes(content)
    return list(open_source(Source(source=name, **source), seed=1, base_folder=folder).read())


# name -> (bytes of the second line of a question/answer file, the whole sentence or its beginning)
QUESTION_ROWS = {
    "missing key": (_line(question="q"), "missing key (field 'answer', found keys 'question', expected text)"),
    "null": (_line(question="q", answer=None), "null where text is needed (field 'answer', found null, expected text)"),
    "empty": (_line(question="q", answer=""), "empty text (field 'answer', found '', expected at least one visible"),
    "blank text": (_line(question=" \n", answer="a"), "empty text (field 'question', found ' \\n', expected at least"),
    "integer": (_line(question="q", answer=4), "not text (field 'answer', found a number, expected text)"),
    "list": (_line(question=["q"], answer="a"), "not text (field 'question', found a list, expected text)"),
    "torn JSON": (b'{"question": "q", "ans\n', "torn or invalid JSON (found '\"ans' at column 19, expected JSON: "),
    "bad UTF-8": (b'{"question": "\xff"}\n', "not UTF-8 (found byte 0xff at byte 15 of the line, expected UTF-8 text)"),
    "lone surrogate": (b'{"question": "\\ud83d", "answer": "a"}\n',
                       "lone surrogate (field 'question', found half of a UTF-16 pair, expected valid Unicode text)"),
    "escaped NUL": (b'{"question": "a\\u0000", "answer": "a"}\n',
                    "NUL character (field 'question', found \\u0000, expected text without NUL)"),
    "raw NUL": (b'{"question": "a\x00b", "answer": "a"}\n',
                "torn or invalid JSON (found '\\x00b\", \"answer\": \"a\"}"),
    "NaN literal": (b'{"question": "q", "answer": NaN}\n', "not a JSON value (found NaN, expected a finite number"),
    "duplicate key": (b'{"answer": "a", "question": "q", "answer": "b"}\n',
                      "duplicate key (field 'answer', found 2 times, expected once)"),
    "JSON array": (b'["q", "a"]\n', "row is not an object (found a list, expected an object with keys)"),
    "two values": (GOOD.strip() + GOOD, "torn or invalid JSON (found text after the value: '{\"question\""),
    "nested too deeply": (b"[" * 100_000 + b"\n", "invalid JSON (found values nested too deeply, expected a row)"),
    "endless number": (b"9" * 5_000 + b"\n", "invalid JSON (found a number that is too long, expected a row"),
}  # fmt: skip

# name -> (bytes of a file with one row, fields of the source, the sentence)
OTHER_ROWS = {
    "messages: train is text": (_chat(USER, {**ASSISTANT, "train": "no"}), {},
        "wrong train (field 'messages[1].train', found 'no', expected true or false)"),
    "messages: train is a number": (_chat(USER, {**ASSISTANT, "train": 1}), {},
        "wrong train (field 'messages[1].train', found 1, expected true or false)"),
    "messages: weight is a share": (_chat(USER, {**ASSISTANT, "weight": 0.5}), {},
        "wrong weight (field 'messages[1].weight', found 0.5, expected 0 or 1)"),
    "messages: weight is a boolean": (_chat(USER, {**ASSISTANT, "weight": True}), {},
        "wrong weight (field 'messages[1].weight', found True, expected 0 or 1)"),
    "messages: a taught question": (_chat({**USER, "weight": 1}, ASSISTANT), {},
        "only answers can be taught (field 'messages[0].weight', found 1 on a user turn, expected weight on assistant"),
    "messages: train against weight": (_chat(USER, {**ASSISTANT, "train": True, "weight": 0}), {},
        "train and weight disagree (field 'messages[1].train', found {\"train\": true, \"weight\": 0}, expected one)"),
    "messages: nothing taught": (_chat(USER, {**ASSISTANT, "weight": 0}), {},
        "nothing is taught (field 'messages', found train: false or weight: 0 on every answer, expected at least one"),
    "prompt_completion: nothing taught": (_line(prompt=[USER], completion=[{**ASSISTANT, "weight": 0}]), {},
        "nothing is taught (field 'prompt + completion', found train: false or weight: 0 on every answer, expected at"),
    "prompt_completion: list and text": (_line(prompt=[USER], completion="4"), {},
        "not text (field 'prompt', found a list, expected text)"),
    "messages: null without calls": (_chat(USER, {"role": "assistant", "content": None}), {},
        "null where text is needed (field 'messages[1].content', found null, expected text)"),
    "messages: calls are no list": (_chat(USER, {**ASSISTANT, "tool_calls": {"a": 1}}), {},
        "not a list of calls (field 'messages[1].tool_calls', found an object, expected a list of calls)"),
    "messages: call without a name": (_chat(USER, {**ASSISTANT, "tool_calls": [{"function": {}}]}), {},
        "call without a name (field 'messages[1].tool_calls[0].function.name', found null, expected the tool's name)"),
    "messages: the user calls": (_chat({**USER, "tool_calls": [CALL]}, ASSISTANT), {},
        "tool calls of another role (field 'messages[0].tool_calls', found a user turn, expected an assistant turn)"),
    "messages: old function call": (_chat(USER, {**ASSISTANT, "function_call": {"name": "f"}}), {},
        "old form of a tool call (field 'messages[1].function_call', found a call, expected tool_calls)"),
    "messages: result without a call": (_chat(USER, {"role": "tool", "content": "4"}, USER, ASSISTANT), {},
        "tool turn without a call (field 'messages', found roles user, tool, user, assistant, expected an assistant"),
    "messages: tools are no list": (_chat(USER, ASSISTANT, tools="add"), {},
        "not JSON (field 'tools', found 'add', expected a list of tools)"),
    "messages: half a character in a call": (_chat(USER, {**ASSISTANT, "tool_calls": [
        {"function": {"name": "add", "arguments": "\ud83d"}}]}), {},
        "lone surrogate (field 'messages[1]', found half of a UTF-16 pair, expected valid Unicode text)"),
    "messages: a call nested deeply": (_chat(USER, {**ASSISTANT, "tool_calls": [
        {"function": {"name": "add", "arguments": json.loads("[" * 300 + "]" * 300)}}]}), {},
        "nested too deeply (field 'messages[1]', found more than 100 levels, expected plain JSON values)"),
    "messages: tools nested deeply": (_chat(USER, ASSISTANT, tools=[json.loads('{"a":' * 300 + "1" + "}" * 300)]), {},
        "nested too deeply (field 'tools', found more than 100 levels, expected plain JSON values)"),
    "ShareGPT: unknown speaker": (_share({"from": "bing", "value": "a"}), {},
        "unknown speaker (field 'conversations[0].from', found 'bing', expected one of system, human, user, gpt,"),
    "ShareGPT: number for text": (_share({"from": "human", "value": "a"}, {"from": "gpt", "value": 4}), {},
        "not text (field 'conversations[1].value', found a number, expected text)"),
    "ShareGPT: begins with an answer": (_share({"from": "gpt", "value": "a"}), {},
        "no user turn before the answer (field 'conversations', found roles assistant, expected user before"),
    "ShareGPT: empty": (_share(), {},
        "not a list of turns (field 'conversations', found [], expected a list of {from, value})"),
    "squad: answers are text": (_line(context="c", question="q", answers="a"), {},
        "not a list of answers (field 'answers', found text, expected {text: [...]} or a list of {text})"),
    "squad: answer is null": (_line(context="c", question="q", answers={"text": ["a", None]}), {},
        "null where text is needed (field 'answers.text[1]', found null, expected text)"),
    "squad: answerable without an answer": (_line(context="c", question="q", answers=[], is_impossible=False), {},
        "empty list (field 'answers', found [], expected at least one text)"),
    "fiqa: no ground truth": (_line(question="q", ground_truths=[]), {},
        "empty list (field 'ground_truths', found [], expected at least one text)"),
    "fiqa: text for a list": (_line(question="q", ground_truths="a"), {},
        "not a list (field 'ground_truths', found text, expected a list of texts)"),
    "fiqa: second truth is a number": (_line(question="q", ground_truths=["a", 1]), {},
        "not text (field 'ground_truths[1]', found a number, expected text)"),
    "metamath: no response": (_line(query="q", response=None), {},
        "null where text is needed (field 'response', found null, expected text)"),
    "dolly: context is a list": (_line(instruction="i", response="r", context=[]), {},
        "not text (field 'context', found a list, expected text)"),
    "gsm8k: no final line": (GOOD, {"format": "gsm8k"},
        "no final answer (field 'answer', found the last line '4', expected a last line `#### 72`"),
    "text is null": (_line(text=None), {}, "null where text is needed (field 'text', found null, expected text)"),
    "field map: key missing in a row": (_line(ask="q", reply="a") * 2 + _line(ask="q"),
        {"fields": {"question": "ask", "answer": "reply"}},
        "missing key (field 'reply', found keys 'ask', expected what `fields` maps to 'answer')"),
    "field map: null under its own name": (_line(ask="q", reply=None),
        {"fields": {"question": "ask", "answer": "reply"}},
        "null where text is needed (field 'reply', found null, expected text)"),
}  # fmt: skip

# name -> (file name, bytes, origin, the sentence)
OTHER_FILES = {
    "csv: too many columns": ("r.csv", b"question,answer\na,1,2\n", "r.csv:2",
        "wrong number of columns (found 3, expected 2 as in the header)"),
    "csv: torn quote": ("r.csv", b'question,answer\na,1\n"b,2\n', "r.csv:3",
        "torn or invalid CSV (found unexpected end of data, expected a row)"),
    "csv: empty cell": ("r.csv", b"question,answer\n\na,\n", "r.csv:3",
        "empty text (field 'answer', found '', expected at least one visible character)"),
    "json: torn array": ("r.json", b'[{"question": "q", "answer": "a"},\n{"question": ', "r.json:2",
        "torn or invalid JSON (found the end at column"),
    "json: torn object": ("r.json", b'{"data": [\n{"paragraphs": [\n', "r.json:3",
        "torn or invalid JSON (found the end at column 1, expected JSON: Expecting value)"),
}  # fmt: skip

# name -> (file name, bytes, fields of the source, error class, the sentence with its place)
REFUSED_FILES = {
    "unknown keys": ("r.jsonl", b'{"body": "a"}\n', {}, DataError,
        "r.jsonl: the rows fit none of the accepted shapes (keys found: 'body')"),
    "field map: not a key of the format": ("r.jsonl", GOOD, {"format": "fiqa", "fields": {"answer": "answer"}},
        RecipeError, "fields: `fields` maps 'answer', which fiqa does not read"),
    "field map: in no row": ("r.jsonl", GOOD, {"format": "question_answer", "fields": {"question": "ask"}}, DataError,
        "r.jsonl: none of the first 1 rows has the key 'ask' that `fields` gives for 'question' "
        "(found keys 'question', 'answer', expected 'ask')"),
    "csv: column twice": ("r.csv", b"a,a\n1,2\n", {}, DataError,
        "r.csv:1: the header names a column twice (found 'a', expected it once)"),
    "csv: bad UTF-8": ("r.csv", b"question,answer\na,1\nb,\xff\n", {}, DataError,
        "r.csv:3: not UTF-8 (found byte 0xff, expected UTF-8 text"),
    "json: bad UTF-8": ("r.json", b'[{"question": "a"},\n"\xff"]', {}, DataError,
        "r.json:2: not UTF-8 (found byte 0xff, expected UTF-8 text"),
    "parquet: torn": ("r.parquet", b"PAR1 torn", {}, DataError, "r.parquet:row 1: not a readable Parquet file (found "),
    "empty": ("r.jsonl", b"\n \n", {}, DataError, "r.jsonl: holds no rows"),
    "slice beyond the end": ("r.jsonl", GOOD * 3, {"split": "train[3:]"}, DataError,
        "r.jsonl: split 'train[3:]' takes no rows: there are 3"),
    "another split": ("r.jsonl", GOOD, {"split": "validation"}, RecipeError,
        "r.jsonl: a file is one split, it has no 'validation'"),
}  # fmt: skip


@pytest.mark.parametrize("case", QUESTION_ROWS)
def test_a_malformed_question_row_is_refused_alone_and_named(tmp_path, case):
    line, reason = QUESTION_ROWS[case]
    first, bad, last = _read(tmp_path, GOOD + line + GOOD, format="question_answer")
    assert isinstance(bad, BadRow) and (bad.origin, bad.kind) == ("rows.jsonl:2", "bad")
    assert bad.reason.startswith(reason)
    assert re.search(r"found .*expected ", bad.reason)
    assert len(bad.content) <= 10_000 and bad.content.encode()
    assert [example.messages[-1].content for example in (first, last)] == ["4", "4"]


@pytest.mark.parametrize("case", OTHER_ROWS)
def test_a_malformed_row_of_another_format_is_refused_and_named(tmp_path, case):
    content, source, reason = OTHER_ROWS[case]
    bad = _read(tmp_path, content, **({"split": "all"} | source))[-1]
    assert isinstance(bad, BadRow) and bad.kind == "bad"
    assert bad.origin == f"rows.jsonl:{content.count(bytes([10]))}"
    assert bad.reason.startswith(reason)
    assert re.search(r"\(field .*found .*expected ", bad.reason)


@pytest.mark.parametrize("case", OTHER_FILES)
def test_a_malformed_row_of_another_kind_of_file_is_refused_and_named(tmp_path, case):
    name, content, origin, reason = OTHER_FILES[case]
    bad = _read(tmp_path, content, name=name, format="question_answer")[-1]
    assert isinstance(bad, BadRow) and (bad.origin, bad.kind) == (origin, "bad")
    assert bad.reason.startswith(reason)


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_a_file_that_cannot_be_used_at_all_is_refused_with_its_place(tmp_path, case):
    name, content, source, error, sentence = REFUSED_FILES[case]
    with pytest.raises(error) as caught:
        _read(tmp_path, content, name=name, **source)
    assert str(caught.value).startswith(sentence)
    assert isinstance(caught.value, WhetError) and caught.value.mend


def test_parquet_rows_are_refused_one_by_one(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="needs whet[data]")
    import pyarrow.parquet as pq

    broken = pa.array([b"4", b"\xff", b"4", None, b"4"]).view(pa.string())
    pq.write_table(pa.table({"question": ["q"] * 5, "answer": broken}), tmp_path / "r.parquet")
    rows = list(open_source(Source(source="r.parquet"), seed=1, base_folder=tmp_path).read())
    assert [isinstance(row, BadRow) for row in rows] == [False, True, False, True, False]
    assert (rows[1].origin, rows[1].reason) == ("r.parquet:row 2", "not UTF-8 (found byte 0xff, expected UTF-8 text)")
    assert rows[3].origin == "r.parquet:row 4" and rows[3].reason.startswith(
        "null where text is needed (field 'answer'"
    )


ACCEPTED = {
    "extra keys": _line(question="2+2?", answer="4", source=None, difficulty=3),
    "blank lines": b"\n" + GOOD + b"  \n\n",
    "byte-order mark": b"\xef\xbb\xbf" + GOOD,
    "CRLF": GOOD.replace(b"\n", b"\r\n") * 2,
    "one megabyte": _line(question="2+2?", answer="4", notes="x" * 1_000_000),
    "one megabyte of question": _line(question="x" * 1_000_000, answer="4"),
    "duplicates": GOOD * 3,
    "no line end": GOOD.strip(),
    "line separators in text": _line(question="a\u2028b\u0085c", answer="4"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_only_looks_odd_is_accepted(tmp_path, case):
    rows = _read(tmp_path, ACCEPTED[case])
    assert len(rows) == sum(1 for line in ACCEPTED[case].splitlines() if line.strip())
    assert all(not isinstance(row, BadRow) and row.messages[-1].content == "4" for row in rows)


def test_the_table_has_the_nineteen_cases_of_the_battery_and_thirty_more():
    assert len(QUESTION_ROWS) + len(ACCEPTED) >= 19
    assert len(QUESTION_ROWS) + len(OTHER_ROWS) + len(OTHER_FILES) + len(REFUSED_FILES) >= 49
