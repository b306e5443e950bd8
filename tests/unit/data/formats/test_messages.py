"""Conversations: who is taught, and what is kept for the chat template."""

import json

import pytest

from whet.data.files import RawRow
from whet.data.rows import BadRow, RowReader

USER, ASSISTANT = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"b": 2, "a": 2}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def _read(name="messages", **row):
    example = RowReader(format_name=name).read(RawRow(origin="f:1", value=row))
    assert not isinstance(example, BadRow), example.reason
    return example


def _taught(*turns):
    return [turn.is_taught for turn in _read(messages=list(turns)).messages]


@pytest.mark.parametrize(
    ("wishes", "is_taught"),
    [({}, True), ({"train": True}, True), ({"train": False}, False), ({"weight": 1}, True), ({"weight": 0}, False),
     ({"train": None, "weight": None}, True), ({"train": False, "weight": 0}, False)],
)  # fmt: skip
def test_every_answer_is_taught_unless_it_says_otherwise(wishes, is_taught):
    assert _taught(USER, {**ASSISTANT, **wishes}, USER, ASSISTANT) == [False, is_taught, False, True]
    assert _taught({**USER, "weight": 0}, ASSISTANT, {**USER, "train": False}, {**ASSISTANT, **wishes})[1] is True


def test_calls_results_and_tools_are_kept_as_they_are_for_the_chat_template():
    turns = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "", "tool_call_id": "c1", "name": "add"},
        {**ASSISTANT, "tool_calls": None, "name": None, "weight": None},
    ]
    example = _read(messages=turns, tools=[TOOL])
    _, call, result, answer = example.messages
    # text, not value: the order of the arguments is part of what the model learns
    assert call.extra == json.dumps({"tool_calls": [CALL]}) and (call.content, call.is_taught) == ("", True)
    assert json.loads(result.extra) == {"tool_call_id": "c1", "name": "add"} and not result.is_taught
    assert answer.extra == "" and example.golds == ("4",)
    assert json.loads(example.tools) == [TOOL] == json.loads(_read(messages=turns, tools=json.dumps([TOOL])).tools)


def test_a_call_without_text_at_the_end_is_taught_and_not_scored():
    example = _read(messages=[USER, {"role": "assistant", "tool_calls": [CALL]}])
    assert example.golds == () and example.messages[-1].is_taught


def test_the_id_tells_calls_and_tools_apart_and_is_the_same_without_any():
    plain = _read(messages=[USER, ASSISTANT])
    called = _read(messages=[USER, {**ASSISTANT, "tool_calls": [CALL]}])
    equipped = _read(messages=[USER, ASSISTANT], tools=[TOOL])
    untaught = _read(messages=[USER, {**ASSISTANT, "weight": 0}, USER, ASSISTANT])
    taught = _read(messages=[USER, ASSISTANT, USER, ASSISTANT])
    assert len({example.id for example in (plain, called, equipped, untaught, taught)}) == 5
    assert _read(messages=[USER, ASSISTANT], tools=[]).id == plain.id == _read("prompt_completion", prompt="2+2?",
                                                                               completion="4").id  # fmt: skip


def test_sharegpt_says_the_same_as_messages():
    turns = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "add(2, 2)"},
             {"from": "observation", "value": "4"}, {"from": "model", "value": "4"}]  # fmt: skip
    messages = [USER, {"role": "assistant", "content": "add(2, 2)"}, {"role": "tool", "content": "4"}, ASSISTANT]
    assert _read("sharegpt", conversations=turns).id == _read(messages=messages).id
    system = {"role": "system", "content": "Be brief."}
    beside = _read("sharegpt", conversations=turns, system="Be brief.", tools=json.dumps([TOOL]))
    assert beside.id == _read(messages=[system, *messages], tools=[TOOL]).id


def test_in_prompt_and_completion_lists_only_the_completion_is_taught():
    row = {"prompt": [USER, ASSISTANT, USER], "completion": [{**ASSISTANT, "weight": 0}, USER, ASSISTANT]}
    assert [turn.is_taught for turn in _read("prompt_completion", **row).messages] == [False] * 5 + [True]
