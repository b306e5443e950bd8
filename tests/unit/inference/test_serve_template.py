"""The template that a server is given makes transformers write the tokens that whet writes."""

import pytest
import tiny_tokenizers

from whet.data.templates import build_template, prompt_ids
from whet.errors import RecipeError
from whet.inference.serve_template import check_served, served_chat_template
from whet.types import Message

USER = [{"role": "user", "content": "Why is 12 + 7 = 19? \u6771\U0001f600 'x' \\n {{ y }}"}]
SYSTEM = [{"role": "system", "content": "Be brief."}, *USER]
LONG = [*SYSTEM, {"role": "assistant", "content": "So.\n\nIt is. "}, {"role": "user", "content": "Answer: "}]
ODD = 'It\'s "so":\n\\ {{ two }} {% x %} \u6771\U0001f600'

WITH_DATE = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ bos_token }}{{ date_string }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>"
    "{{ m.content }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>"
    "{% endif %}"
)


def chatml(**settings):
    tokenizer = tiny_tokenizers.build_chatml()
    return tokenizer, build_template(tokenizer, settings.pop("kind", "chat"), [0, 2], **settings)


def llama3(own=None, **settings):
    tokenizer = tiny_tokenizers.build_llama3()
    tokenizer.chat_template = own or tokenizer.chat_template
    return tokenizer, build_template(tokenizer, settings.pop("kind", "chat"), [4], **settings)


def served_ids(tokenizer, template, system, asked):
    tokenizer.chat_template = served_chat_template(template, system)
    return tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)


def own_ids(template, system, asked):
    has_system = asked[0]["role"] == "system"
    head = [Message(role="system", content=system)] if system and not has_system else []
    return prompt_ids(template, [*head, *(Message(role=m["role"], content=m["content"]) for m in asked)])


CASES = {
    "own": chatml,
    "own of llama 3": llama3,
    "family smollm2": lambda: chatml(chat_template="smollm2"),
    "family llama-3.1": lambda: llama3(chat_template="llama-3.1"),
    "date": lambda: llama3(WITH_DATE),
}


@pytest.mark.parametrize("system", [None, ODD])
@pytest.mark.parametrize("name", CASES)
def test_a_conversation_has_the_tokens_of_training(name, system):
    tokenizer, template = CASES[name]()
    for asked in (USER, SYSTEM, LONG):
        assert served_ids(tokenizer, template, system, asked) == own_ids(template, system, asked)
    check_served(tokenizer, template, system)


@pytest.mark.parametrize("reasoning", ["on", "off"])
@pytest.mark.parametrize("system", [None, "You count.\nWell."])
def test_the_reasoning_switch_is_set_for_every_request(reasoning, system):
    tokenizer, template = llama3(chat_template="nemotron-nano", reasoning=reasoning)
    for asked in (USER, SYSTEM, LONG):
        ids = served_ids(tokenizer, template, system, asked)
        assert ids == own_ids(template, system, asked)
        assert f"detailed thinking {reasoning}" in tokenizer.decode(ids)
    check_served(tokenizer, template, system)


def test_a_request_may_switch_reasoning_itself():
    tokenizer, template = llama3(chat_template="nemotron-nano", reasoning="off")
    asked = [{"role": "system", "content": "detailed thinking on"}, *USER]
    text = tokenizer.decode(served_ids(tokenizer, template, None, asked))
    assert "thinking on" in text and "thinking off" not in text


@pytest.mark.parametrize("system", [None, ODD])
@pytest.mark.parametrize("prompt", [None, "Q'\\: {question}\nA\u6771: ", "{question} \t"])
@pytest.mark.parametrize("build_one", [chatml, llama3])
def test_a_plain_question_has_the_tokens_of_training(build_one, prompt, system):
    tokenizer, template = build_one(kind="plain", prompt=prompt)
    for asked in (USER, SYSTEM):
        assert served_ids(tokenizer, template, system, asked) == own_ids(template, system, asked)
    check_served(tokenizer, template, system)


def test_a_plain_model_refuses_a_history_instead_of_writing_what_it_never_saw():
    tokenizer, template = chatml(kind="plain")
    with pytest.raises(Exception, match="send one user message, no history"):
        served_ids(tokenizer, template, None, LONG)


def test_a_server_that_would_ask_otherwise_is_not_started():
    tokenizer, template = chatml()
    tokenizer.chat_template = served_chat_template(template, "Be brief.")
    with pytest.raises(RecipeError, match="would not ask as whet asked in training"):
        check_served(tokenizer, template, "Be long.")
    check_served(tokenizer, template, "Be brief.")
