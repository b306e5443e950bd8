import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.data.files import RawRow
from whet.data.formats import detect_format
from whet.data.rows import BadRow, RowReader, list_faults, number_ids

USER, ASSISTANT = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "Be brief."}


def _read(values, format_name=None, **kwargs):
    rows = [
        value if isinstance(value, RawRow) else RawRow(origin=f"f:{n}", value=value)
        for n, value in enumerate(values, 1)
    ]
    reader = RowReader(format_name=format_name or detect_format(rows, "f"), **kwargs)
    found = [reader.read(row) for row in rows]
    bad = [row for row in found if isinstance(row, BadRow)]
    return number_ids(row for row in found if not isinstance(row, BadRow)), bad


QUESTION_FAULTS = {
    "missing key": ({"question": "2+2?"}, "missing key (field 'answer', found keys 'question', expected text)"),
    "null": ({"question": "2+2?", "answer": None}, "null where text is needed (field 'answer', found null, expected"),
    "empty answer": ({"question": "2+2?", "answer": ""}, "empty text (field 'answer'"),
    "blank answer": ({"question": "2+2?", "answer": " \n\t"}, "empty text (field 'answer'"),
    "empty question": ({"question": "", "answer": "4"}, "empty text (field 'question'"),
    "integer": ({"question": "2+2?", "answer": 4}, "not text (field 'answer', found a number, expected text)"),
    "boolean": ({"question": "2+2?", "answer": True}, "not text (field 'answer', found a boolean"),
    "list": ({"question": ["2+2?"], "answer": "4"}, "not text (field 'question', found a list"),
    "object": ({"question": {"text": "2+2?"}, "answer": "4"}, "not text (field 'question', found an object"),
    "lone surrogate": ({"question": json.loads('"\\ud83d"'), "answer": "4"}, "lone surrogate (field 'question'"),
    "escaped NUL": ({"question": "a\x00b", "answer": "4"}, "NUL character (field 'question'"),
    "array row": (["2+2?", "4"], "row is not an object (found a list, expected an object with keys)"),
    "text row": ("2+2?", "row is not an object (found text"),
    "null row": (None, "row is not an object (found null"),
}
MESSAGE_FAULTS = {
    "not a list": ("hello", "not a list of messages (field 'messages', found text"),
    "null messages": (None, "not a list of messages (field 'messages', found null"),
    "empty list": ([], "empty list of messages"),
    "not a message": (["hello"], "not a message (field 'messages[0]', found text"),
    "wrong role": ([USER, {"role": "bot", "content": "4"}], "wrong role (field 'messages[1].role', found 'bot'"),
    "role missing": ([{"content": "4"}], "wrong role (field 'messages[0].role', found None"),
    "role of odd type": ([{"role": ["user"], "content": "4"}], "wrong role (field 'messages[0].role'"),
    "content missing": ([{"role": "user"}, ASSISTANT], "missing key (field 'messages[0].content'"),
    "content null": ([USER, {"role": "assistant", "content": None}], "null where text is needed"),
    "empty answer": ([USER, {"role": "assistant", "content": " "}], "empty text (field 'messages[1].content'"),
    "no assistant": ([USER], "no assistant turn"),
    "two systems": ([SYSTEM, SYSTEM, USER, ASSISTANT], "two system turns"),
    "late system": ([USER, SYSTEM, ASSISTANT], "system turn is not first"),
    "no user": ([SYSTEM, ASSISTANT], "no user turn before the answer"),
    "ends with user": ([USER, ASSISTANT, USER], "last turn is not the assistant's"),
    "call without a name": ([USER, {**ASSISTANT, "tool_calls": [{"id": 1}]}], "call without a name"),
}  # fmt: skip


@pytest.mark.parametrize("case", QUESTION_FAULTS)
def test_a_bad_question_row_is_named_by_its_line_and_reason(case):
    value, reason = QUESTION_FAULTS[case]
    good = {"question": "2+2?", "answer": "4"}
    examples, bad = _read([good, value, good], "question_answer")
    assert len(examples) == 2 and [(row.origin, row.kind) for row in bad] == [("f:2", "bad")]
    assert bad[0].reason.startswith(reason)


@pytest.mark.parametrize("case", MESSAGE_FAULTS)
def test_a_bad_conversation_is_named_by_its_line_and_reason(case):
    value, reason = MESSAGE_FAULTS[case]
    examples, (bad,) = _read([{"messages": value}], "messages")
    assert not examples and bad.origin == "f:1"
    assert bad.reason.startswith(reason)


def test_twenty_faults_are_listed_and_all_are_counted():
    values = [{"question": "q", "answer": None}] * 25 + [{"question": "q"}] * 5
    text = list_faults(_read(values, "question_answer")[1], 40)
    assert "30 of 40 rows" in text and "f:20:" in text and "f:21:" not in text and "and 10 more" in text
    assert "totals: null where text is needed 25, missing key 5" in text


def test_a_bad_row_keeps_its_content_for_quarantine():
    torn = RawRow(origin="f:1", fault="torn or invalid JSON", text='{"question": "2+')
    half = {"question": json.loads('"\\ud83d"'), "answer": "x" * 20_000, "n": float("nan")}
    _, bad = _read([torn, half, ["a", 1]], "question_answer")
    assert [(row.origin, row.reason) for row in bad][:1] == [("f:1", "torn or invalid JSON")]
    assert bad[0].content == '{"question": "2+'
    assert bad[1].content.startswith('{"question": "\\ud83d", "answer": "xxx') and len(bad[1].content) == 10_000
    assert bad[2].content == '["a", 1]'
    assert all(row.content.encode() for row in bad)


def test_extra_keys_are_ignored_and_duplicates_are_kept():
    row = {"question": "2+2?", "answer": "4"}
    examples, _ = _read([row, {**row, "source": None, "difficulty": float("inf")}])
    assert [message.content for message in examples[1].messages] == ["2+2?", "4"]
    assert examples[0].id[:-1] == examples[1].id[:-1]
    assert [example.id[-2:] for example in examples] == ["-0", "-1"]


@pytest.mark.parametrize(
    ("row", "name", "contents", "taught"),
    [
        ({"messages": [SYSTEM, USER, ASSISTANT, USER, ASSISTANT]}, "messages",
         ["Be brief.", "2+2?", "4", "2+2?", "4"], [0, 0, 1, 0, 1]),
        ({"prompt": "2+2=", "completion": " 4"}, "prompt_completion", ["2+2=", " 4"], [0, 1]),
        ({"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT]}, "prompt_completion",
         ["2+2?", "4", "2+2?", "4"], [0, 0, 0, 1]),
        ({"instruction": "Add.", "input": "2 and 2", "output": "4"}, "alpaca", ["Add.\n\n2 and 2", "4"], [0, 1]),
        ({"instruction": "Add.", "input": "", "output": "4"}, "alpaca", ["Add.", "4"], [0, 1]),
        ({"instruction": "Add.", "output": "4"}, "alpaca", ["Add.", "4"], [0, 1]),
        ({"question": "2+2?", "answer": "4"}, "question_answer", ["2+2?", "4"], [0, 1]),
        ({"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "2+2?"},
                            {"from": "gpt", "value": "4"}]}, "sharegpt", ["Be brief.", "2+2?", "4"], [0, 0, 1]),
        ({"text": "Once upon"}, "text", ["Once upon"], [1]),
    ],
)  # fmt: skip
def test_each_shape_is_detected_and_read(row, name, contents, taught):
    assert detect_format([RawRow(origin="f:1", value=row)], "f") == name
    (example,), _ = _read([row])
    assert [message.content for message in example.messages] == contents
    assert [message.is_taught for message in example.messages] == list(map(bool, taught))


def test_gsm8k_answers_become_number_tasks_with_extracted_golds():
    (number, words), _ = _read(
        [{"question": "q", "answer": "48/2 = 24\n#### 1,234"}, {"question": "q", "answer": "Use #### as a rule."}]
    )
    assert (number.task, number.golds) == ("math_answer", ("1234",))
    assert (words.task, words.golds) == ("plain_answer", ("Use #### as a rule.",))


def test_system_and_instruction_are_added_to_every_row_that_needs_them():
    rows = [{"messages": [USER, ASSISTANT]}, {"messages": [{"role": "system", "content": "Own."}, USER, ASSISTANT]}]
    (bare, own), _ = _read(rows, system="Be brief.", instruction="Answer in words.")
    assert [message.content for message in bare.messages] == ["Be brief.", "2+2?\n\nAnswer in words.", "4"]
    assert own.messages[0].content == "Own."
    assert bare.parameters == own.parameters == _read([{"messages": [USER, ASSISTANT]}])[0][0].parameters


QUESTIONS = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=20)


@given(QUESTIONS, st.randoms(use_true_random=False))
def test_ids_are_unique_and_do_not_depend_on_the_order(questions, rng: random.Random):
    rows = [{"question": question, "answer": "x"} for question in questions]
    ids = [example.id for example in _read(rows)[0]]
    rng.shuffle(rows)
    shuffled = _read(rows)[0]
    assert len(set(ids)) == len(ids)
    assert {example.id for example in shuffled} == set(ids)


def test_splitting_a_file_keeps_the_ids_and_joining_makes_them_unique():
    rows = [{"question": f"q{n}", "answer": "x"} for n in range(6)]
    whole, first, second = _read(rows)[0], _read(rows[:3])[0], _read(rows[3:])[0]
    assert [e.id for e in (*first, *second)] == [e.id for e in whole]
    assert len({e.id for e in number_ids([*whole, *whole])}) == 12
