"""Tools and calls reach the chat template in the form that it reads, or the row is refused."""

import json

import pytest
from transformers import PreTrainedTokenizerFast

from whet.data import templates
from whet.data.templates.tools import with_arguments_as_objects
from whet.errors import DataError
from whet.types import Message

TOOLS = json.dumps([{"type": "function", "function": {"name": "get_weather", "parameters": {"city": "string"}}}])
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}"
CALLS = (
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} ARGUMENTS</call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LIST = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"


def _call(arguments, name="get_weather"):
    extra = json.dumps({"tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]})
    return Message(role="assistant", content="", extra=extra, is_taught=True)


def _turns(call, content="Rain in Paris?"):
    return (
        Message(role="user", content=content),
        call,
        Message(role="tool", content="yes", extra='{"tool_call_id": "1"}'),
        Message(role="assistant", content="It rains.", is_taught=True),
    )


def _template(tokenizer, text):
    copy = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token,
        chat_template=text,
    )  # fmt: skip
    return templates.build_template(copy, "chat", [2])


def _written(written):
    return LIST + "{% for m in messages %}" + TURN + CALLS.replace("ARGUMENTS", written)


def _render(template, turns, tools=TOOLS):
    return templates.render(template, turns, tools=tools, origin="rows.jsonl:7")


@pytest.mark.parametrize("given", [{"city": "Paris", "days": 2}, '{"city": "Paris", "days": 2}'])
@pytest.mark.parametrize(
    "written",
    [
        "{{ call.function.arguments | tojson }}",
        "{{ '' + call.function.arguments }}",
        "{{ call.function.arguments }}",
        "{% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}"
        "{{ call.function.arguments | tojson }}{% endif %}",
    ],
)  # fmt: skip
def test_arguments_are_json_however_given_and_however_the_template_takes_them(chatml, given, written):
    rendered = _render(_template(chatml, _written(written)), _turns(_call(given)))
    assert '<call>get_weather {"city": "Paris", "days": 2}</call><|im_end|>' in rendered.texts[1]
    assert rendered.texts[0].endswith("<|im_start|>user\nRain in Paris?<|im_end|>\n<|im_start|>assistant\n")
    assert rendered.taught == (True, True)


@pytest.mark.parametrize("arguments", ["[" * 100_000, "[" * 300 + "]" * 300, '{"a":' * 100_000 + "1" + "}" * 100_000])
def test_arguments_that_nest_deeply_stay_the_text_that_they_are(chatml, arguments):
    rendered = _render(_template(chatml, _written("{{ '' + call.function.arguments }}")), _turns(_call(arguments)))
    assert f"<call>get_weather {arguments}</call>" in rendered.texts[1]
    (read,) = with_arguments_as_objects([json.loads(_call(arguments).extra)])
    assert read["tool_calls"][0]["function"]["arguments"] == arguments


def test_python_in_a_message_does_not_change_how_arguments_are_written(chatml):
    template = _template(chatml, _written("{{ call.function.arguments | tojson }}"))
    rendered = _render(template, _turns(_call({"city": "Paris"}), content="What is {'city': 'Paris'}?"))
    assert '<call>get_weather {"city": "Paris"}</call>' in rendered.texts[-1]


def test_arguments_can_be_walked_through(chatml):
    written = "{% for k, v in call.function.arguments.items() %}{{ k }}={{ v }} {% endfor %}"
    rendered = _render(_template(chatml, _written(written)), _turns(_call('{"city": "Paris"}')))
    assert "<call>get_weather city=Paris </call>" in rendered.texts[-1]


def test_a_call_is_taught_with_its_end(chatml):
    template = _template(chatml, _written("{{ call.function.arguments | tojson }}"))
    rendered = _render(template, _turns(_call({"city": "Paris"})))
    ids, taught = templates.assemble(template, rendered, templates.encode(template, [rendered])[0])
    text = chatml.decode(ids[taught].tolist())
    assert text == '<call>get_weather {"city": "Paris"}</call><|im_end|>It rains.<|im_end|>'


def test_a_template_that_ignores_tools_is_refused(chatml):
    ignores = _written("{{ call.function.arguments | tojson }}").removeprefix(LIST)
    with pytest.raises(DataError, match=r"rows.jsonl:7: .*does not write the tool 'get_weather'"):
        _render(_template(chatml, ignores), _turns(_call({})))
    with pytest.raises(DataError, match="does not write the tool"):
        _render(_template(chatml, ignores), _turns(_call({}), content="What does get_weather do?"))
    with pytest.raises(DataError, match="does not write the tool"):
        _render(templates.build_template(chatml, "chat", [2]), _turns(Message(role="assistant", content="a")))


def test_a_template_that_ignores_calls_is_refused(chatml):
    text = LIST + "{% for m in messages %}" + TURN + "<|im_end|>\n{% endfor %}"
    with pytest.raises(DataError, match="does not write the tool 'get_weather'"):
        _render(_template(chatml, text), _turns(_call({"city": "Paris"})))


def test_the_plain_template_refuses_tools(chatml):
    template = templates.build_template(chatml, "plain", [2])
    turns = (Message(role="user", content="a"), Message(role="assistant", content="b", is_taught=True))
    with pytest.raises(DataError, match=r"rows.jsonl:7: the plain template has no place for tools"):
        _render(template, turns)
    with pytest.raises(DataError, match="no place for tools"):
        _render(template, (turns[0], _call({})), tools="")


def test_control_tokens_in_tools_and_calls_stay_text(chatml):
    template = _template(chatml, _written("{{ call.function.arguments | tojson }}"))
    tools = TOOLS.replace("string", "\\u003c|im_end|>")
    rendered = _render(template, _turns(_call('{"city": "\\u003c|im_start|>"}')), tools=tools)
    ids, _ = templates.assemble(template, rendered, templates.encode(template, [rendered])[0])
    harmless = _render(template, _turns(_call({"city": "x"})))
    expected, _ = templates.assemble(template, harmless, templates.encode(template, [harmless])[0])
    for control in (1, 2):
        assert (ids == control).sum() == (expected == control).sum()
    text = chatml.decode(ids.tolist())
    assert '"city": "<|im_end|>"' in text and '{"city": "<|im_start|>"}' in text


def test_llama_3_1_lists_tools_in_a_user_turn_of_their_own(llama3):
    template = templates.build_template(llama3, "chat", [4], chat_template="llama-3.1")
    text = _render(template, _turns(_call({"city": "Paris"}))).texts[-1]
    listing = text.split("<|start_header_id|>user<|end_header_id|>")[1]
    shown = listing.split("in JSON format:\n")[1].split("\n\nReturn function calls")[0]
    assert json.loads(shown) == json.loads(TOOLS)[0]
    assert "<|start_header_id|>ipython<|end_header_id|>\n\nyes<|eot_id|>" in text
    two = json.loads(_call({}).extra)["tool_calls"] * 2
    twice = Message(role="assistant", content="", extra=json.dumps({"tool_calls": two}))
    with pytest.raises(DataError, match="calls one tool and says nothing else"):
        _render(template, _turns(twice))


def test_a_row_that_is_refused_leaves_the_others_in_place(chatml):
    text = "{% if messages[0].content == 'no' %}{{ raise_exception('not this one') }}{% endif %}" + chatml.chat_template
    conversations = [
        templates.Conversation(messages=(Message(role="user", content=word), _answer()), origin=f"rows.jsonl:{n}")
        for n, word in enumerate(["a", "no", "b"], start=1)
    ]
    first, second, third = templates.render_conversations(_template(chatml, text), conversations)
    assert "user\na<" in first.texts[-1] and "user\nb<" in third.texts[-1]
    assert str(second).startswith("rows.jsonl:2: the chat template refuses this conversation: not this one")


def _answer():
    return Message(role="assistant", content="yes", is_taught=True)
