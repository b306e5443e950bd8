"""What a request may hold: the keys of OpenAI's clients, text, and no more of it than the model reads."""

import asyncio
import json

import pytest

from whet.inference import serve_guard
from whet.inference.serve_guard import CONTEXT, MODELS, TOKEN, Guard
from whet.inference.serve_limits import MOST_BODY_BYTES, most_body_bytes, why_refused

ASKED = [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize(
    "document",
    [
        {"model": "m", "messages": ASKED, "max_tokens": 256, "temperature": 0.5, "stream": True, "stop": ["\n"]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}], "seed": 1, "n": 2},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}], "tools": []},
        {"prompt": ["a", "b"], "max_tokens": 1, "echo": False, "logprobs": 3},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}], "max_output_tokens": 5},
        {"messages": ASKED, "logprobs": True, "top_logprobs": 5, "max_completion_tokens": 0},
        {"messages": ASKED, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}},
    ],
)
def test_what_clients_of_openai_s_kind_send_is_let_through(document):
    assert why_refused(document, 256) is None


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        # transformers' server would render it, unbounded, on the thread that answers everybody
        ({"chat_template_kwargs": {"chat_template": "{% for i in range(10 ** 9) %}{% endfor %}"}}, "is no key"),
        ({"chat_template": "{{ 1 }}"}, "is no key"),
        # ... and would take every setting of generation from the request
        ({"generation_config": '{"max_new_tokens": 1000000, "num_beams": 500}'}, "is no key"),
        ({"guided_regex": "(a+)+$"}, "is no key"),
        ({"mm_processor_kwargs": {}}, "is no key"),
        ({"max_tokens": 257}, "max_tokens is 256 at most"),
        ({"max_completion_tokens": 10**9}, "max_completion_tokens is 256 at most"),
        ({"max_output_tokens": "1000000"}, "is a whole number"),
        ({"max_tokens": 1e9}, "is a whole number"),
        ({"max_tokens": True}, "is a whole number"),
        ({"max_tokens": -1}, "is a whole number"),
        ({"n": 17}, "n is 16 at most"),
        ({"best_of": 10**6}, "best_of is 16 at most"),
        ({"messages": [{"role": "user", "content": "x" * 40_000}]}, "longer than a model that reads 256 tokens"),
        ({"stop": ["y" * 100] * 400}, "longer than a model that reads 256 tokens"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]},
            "text alone",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "text alone"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "http://x"}]}]}, "text alone"),
        ({"messages": [{"role": "user", "content": [{"image": "http://169.254.169.254/"}]}]}, "text alone"),
    ],
)
def test_what_costs_too_much_or_reaches_elsewhere_is_refused(more, reason):
    assert reason in why_refused({"messages": ASKED, **more}, 256)


def test_nesting_is_bounded():
    value = []
    for _ in range(100):
        value = [value]
    assert "nested" in why_refused({"messages": ASKED, "tools": value}, 256)


def test_a_body_is_no_larger_than_the_texts_it_may_hold():
    assert most_body_bytes(None) == MOST_BODY_BYTES == most_body_bytes(10**9)
    assert 12 * 16 * 256 < most_body_bytes(256) < 300_000


def answer_of(guard, messages):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        if not messages:
            await asyncio.sleep(60)
        return messages.pop(0)

    scope = {"type": "http", "path": "/v1/chat/completions", "method": "POST", "headers": [(b"host", b"localhost")]}
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]["message"]


async def nobody(scope, receive, send):
    raise AssertionError("the server behind was asked")


@pytest.fixture(params=["", "tiny"], ids=["vllm", "transformers"])
def guard(request, monkeypatch):
    monkeypatch.setenv(TOKEN, "")
    monkeypatch.setenv(MODELS, request.param)
    monkeypatch.setenv(CONTEXT, "256")
    return Guard(nobody)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"messages": [], "chat_template_kwargs": {}}', 400, "'chat_template_kwargs' is no key of a request"),
        (b'{"messages": [], "max_tokens": 100000}', 400, "max_tokens is 256 at most"),
        (b" " * 300_000, 413, "bytes at most"),
        (b"[" * 100_000 + b"]" * 100_000, 400, "nested too deeply"),
    ],
)
def test_the_guard_of_either_server_refuses_before_the_server_is_asked(guard, body, status, said):
    found, message = answer_of(guard, [{"type": "http.request", "body": body}])
    assert (found, said in message) == (status, True), message


def test_a_request_that_trickles_is_given_up(guard, monkeypatch):
    monkeypatch.setattr(serve_guard, "MOST_BODY_SECONDS", 0.2)
    status, _ = answer_of(guard, [{"type": "http.request", "body": b'{"messages": ', "more_body": True}])
    assert status == 408


def test_a_size_that_is_announced_is_refused_unread(guard):
    scope = {"type": "http", "path": "/v1/completions", "method": "POST",
             "headers": [(b"host", b"localhost"), (b"content-length", b"300000")]}  # fmt: skip
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("the body was read")

    asyncio.run(guard(scope, receive, send))
    assert sent[0]["status"] == 413
