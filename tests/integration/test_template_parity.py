"""whet's renderer against renderers that whet did not write, over 1,000 random conversations each.

SmolLM2: the built-in model's own template through transformers. Llama 3 and 3.1: `ChatFormat` of Meta's `llama-models`
with the real tokenizer. Nemotron-Nano is not verified: no source of its template is at hand, so nothing here tests it.
"""

from __future__ import annotations

import json
from dataclasses import replace

import llama_models_reference as reference
import pytest
from conversations import random_conversations

from whet.data import templates
from whet.errors import HubError
from whet.types import Example, Message

pytestmark = pytest.mark.slow

NUM = 1000


@pytest.fixture(scope="module")
def smollm2():
    from whet.models.tokenizer import load_tokenizer
    from whet.recipe.schema import Model

    try:
        return load_tokenizer(Model(id="smollm2-135m-instruct")).tokenizer
    except HubError as error:
        pytest.skip(f"the package index does not give the built-in model: {error.what}")


@pytest.fixture(scope="module")
def meta():
    return reference.load_chat_format(reference.fetch_or_skip())


@pytest.fixture(scope="module")
def llama3():
    return reference.build_llama3_tokenizer(reference.fetch_or_skip())


def _examples(seed, num=NUM):
    conversations = random_conversations(num, seed)
    return [
        Example(id=str(n), messages=messages, task="plain_answer", origin=f"conversation {n}")
        for n, messages in enumerate(conversations)
    ]


def _without(example, character):
    messages = tuple(replace(turn, content=turn.content.replace(character, "")) for turn in example.messages)
    return replace(example, messages=messages)


def _sequences(template, examples):
    rendered = templates.render_many(template, examples)
    assert [each for each in rendered if not isinstance(each, templates.Rendered)] == []
    pieces = templates.encode(template, rendered)
    return [templates.assemble(template, *pair) for pair in zip(rendered, pieces, strict=True)]


def _check_prompts(template, examples, sequences):
    """What serving is prompted with is what training puts before the last answer, which is taught from there on."""
    for prompt, (ids, taught) in zip(templates.prompts(template, examples), sequences, strict=True):
        assert ids[: len(prompt)].tolist() == prompt
        assert taught[len(prompt)] and not taught[len(prompt) - 1]


@pytest.mark.smollm2
@pytest.mark.parametrize("chat_template", ["own", "smollm2"])
def test_smollm2_is_rendered_as_transformers_renders_its_own_template(smollm2, chat_template):
    template = templates.build_template(smollm2, "chat", [2], chat_template=chat_template)
    # transformers marks control text with private-use characters and removes those that the text had before
    examples = [_without(example, "\U000f0000") for example in _examples(seed=1)]
    sequences = _sequences(template, examples)
    control = set(smollm2.all_special_ids)
    num_exact = 0
    for example, (ids, _) in zip(examples, sequences, strict=True):
        turns = [{"role": turn.role, "content": turn.content} for turn in example.messages]
        theirs = smollm2.apply_chat_template(turns, tokenize=True, sanitize_control_tokens=True, return_dict=False)
        assert smollm2.decode(ids.tolist()) == smollm2.decode(theirs)
        assert [token for token in ids if token in control] == [token for token in theirs if token in control]
        # transformers lets a token span prompt and answer where the answer begins with space, and cuts words at the
        # ends of control text; whet never does
        answers = [turn.content for turn in example.messages if turn.role == "assistant"]
        has_control_text = any(template.control_tokens.search(turn.content) for turn in example.messages)
        if not has_control_text and not any(answer[:1].isspace() for answer in answers):
            assert ids.tolist() == theirs, example
            num_exact += 1
    assert num_exact > 0.5 * NUM
    _check_prompts(template, examples, sequences)


def _their_ids(meta, messages, *, is_prompt):
    raw = [meta.types.RawMessage(role=turn.role, content=turn.content.strip()) for turn in messages]
    for message in raw:
        if message.role == "assistant":
            message.stop_reason = meta.types.StopReason.end_of_turn
    ids = meta.chat.encode_dialog_prompt(raw).tokens
    header = meta.chat._encode_header("assistant")
    return ids if is_prompt else ids[: -len(header)]


def _with_dates(messages):
    """As Llama 3.1 has it: a system turn that begins with two dates, whatever the conversation says."""
    system = messages[0].content.strip() if messages[0].role == "system" else ""
    dates = f"Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n{system}"
    rest = messages[1:] if messages[0].role == "system" else messages
    return dates, rest


@pytest.mark.parametrize("chat_template", ["llama-3", "llama-3.1"])
def test_llama_3_is_rendered_as_metas_chat_format_does(meta, llama3, chat_template):
    eot = meta.tokenizer.special_tokens["<|eot_id|>"]
    template = templates.build_template(llama3, "chat", [eot], chat_template=chat_template)
    examples = _examples(seed=2)
    sequences = _sequences(template, examples)
    prompts = templates.prompts(template, examples)
    for example, (ids, _), prompt in zip(examples, sequences, prompts, strict=True):
        for messages, ours, is_prompt in (
            (example.messages, ids.tolist(), False), (example.messages[:-1], prompt, True)
        ):  # fmt: skip
            if chat_template == "llama-3.1":
                system, messages = _with_dates(messages)
                # not stripped: the block ends with an empty line where the conversation has no system message
                header = _their_ids(meta, (), is_prompt=False)
                block = meta.chat.encode_message(
                    meta.types.RawMessage(role="system", content=system), meta.types.ToolPromptFormat.json
                )[0]
                theirs = header + block + _their_ids(meta, messages, is_prompt=is_prompt)[1:]
            else:
                theirs = _their_ids(meta, messages, is_prompt=is_prompt)
            assert ours == theirs, example
    _check_prompts(template, examples, sequences)


def test_a_tool_call_and_its_result_are_written_as_metas_chat_format_does(meta, llama3):
    call = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris", "days": 2}'}}
    messages = (
        Message(role="user", content="Rain?"),
        Message(role="assistant", content="", extra=json.dumps({"tool_calls": [call]}), is_taught=True),
        Message(role="tool", content='{"rain": true}'),
        Message(role="assistant", content="Yes.", is_taught=True),
    )
    types = meta.types
    theirs = [
        types.RawMessage(role="user", content="Rain?"),
        types.RawMessage(
            role="assistant", content="", stop_reason=types.StopReason.end_of_turn,
            tool_calls=[types.ToolCall(call_id="1", tool_name="get_weather", arguments={"city": "Paris", "days": 2})],
        ),
        types.RawMessage(role="tool", content='{"rain": true}'),
        types.RawMessage(role="assistant", content="Yes.", stop_reason=types.StopReason.end_of_turn),
    ]  # fmt: skip
    eot = meta.tokenizer.special_tokens["<|eot_id|>"]
    template = templates.build_template(llama3, "chat", [eot], chat_template="llama-3.1")
    tools = json.dumps([{"type": "function", "function": {"name": "get_weather", "parameters": {}}}])
    example = Example(id="1", messages=messages, task="plain_answer", tools=tools, origin="row 1")
    ((ids, taught),) = _sequences(template, [example])
    expected = [id for each in theirs for id in meta.chat.encode_message(each, types.ToolPromptFormat.json)[0]]
    assert ids.tolist()[-len(expected) :] == expected
    assert llama3.decode(ids[taught].tolist()) == (
        '{"type": "function", "name": "get_weather", "parameters": {"city": "Paris", "days": 2}}<|eot_id|>'
        "Yes.<|eot_id|>"
    )


def test_the_llama_3_tokenizer_built_here_gives_the_ids_of_llama_cpps_vectors(llama3, test_data):
    vectors = test_data / "tokenizer-vectors" / "ggml-vocab-llama-bpe.gguf"
    separator = "\n__ggml_vocab_test__\n"
    texts = vectors.with_suffix(".gguf.inp").read_text(encoding="utf-8").removesuffix(separator).split(separator)
    lines = vectors.with_suffix(".gguf.out").read_text().splitlines()
    expected = [[int(token) for token in line.split()] for line in lines]
    assert len(texts) == len(expected) == 46
    for text, ids in zip(texts, expected, strict=True):
        assert llama3(text, add_special_tokens=False)["input_ids"] == ids, repr(text)
