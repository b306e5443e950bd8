"""Who is let through to a model server, and what the others are told; the guard alone, without a server."""

import asyncio
import json

import pytest

from whet.inference.serve_guard import MODELS, TOKEN, Guard, is_loopback

SECRET = "s3cret-s3cret-s3cret"


async def app(scope, receive, send):
    assert scope["type"] != "websocket"
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b'"behind"'})


@pytest.fixture
def guard(monkeypatch):
    def build(token="", models=""):
        monkeypatch.setenv(TOKEN, token)
        monkeypatch.setenv(MODELS, models)
        return Guard(app)

    return build


def call(guard, path="/v1/chat/completions", *, method="POST", kind="http", messages=(), **headers):
    headers = {"host": "127.0.0.1:8000"} | headers
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind, "path": path, "method": method,
        "headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()],
    }  # fmt: skip
    waiting = list(messages)

    async def receive():
        return waiting.pop(0) if waiting else {"type": "http.request", "body": b"{}"}

    asyncio.run(guard(scope, receive, send))
    if kind != "http":
        return sent
    start, body = sent
    return start["status"], json.loads(body["body"])


def code(answer):
    return answer[0], answer[1]["error"]["code"]


def test_the_right_token_comes_through_from_anywhere(guard):
    answer = call(guard(SECRET), authorization=f"Bearer {SECRET}", host="example.org", origin="https://example.org")
    assert answer == (299, "behind")


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer ", f"Bearer {SECRET}x", f"Bearer {SECRET[:-1]}", f"bearer {SECRET}", SECRET, "Bearer s\xe9cret"],
)
def test_every_other_token_is_refused(guard, given):
    headers = {} if given is None else {"authorization": given}
    assert code(call(guard(SECRET), **headers)) == (401, "invalid_api_key")
    assert code(call(guard(SECRET), "/v1/models", method="GET", **headers)) == (401, "invalid_api_key")
    assert code(call(guard(SECRET), "/load_model", **headers)) == (401, "invalid_api_key")


def test_health_is_told_without_a_token(guard):
    assert call(guard(SECRET), "/health", method="GET", host="example.org") == (299, "behind")


@pytest.mark.parametrize("path", ["/load_model", "/reset", "/invocations", "/docs", "/v1/chat/completions/x", "/"])
def test_addresses_that_are_not_for_clients_are_not_there(guard, path):
    assert code(call(guard(), path)) == (404, "not_found")
    assert code(call(guard(SECRET), path, authorization=f"Bearer {SECRET}")) == (404, "not_found")


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "localhost:8000", "[::1]:8000"])
@pytest.mark.parametrize("origin", [None, "http://localhost:3000", "http://127.0.0.1"])
def test_programs_of_this_machine_need_no_token(guard, host, origin):
    headers = {"origin": origin} if origin else {}
    assert call(guard(), host=host, **headers) == (299, "behind")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:8000"},
        {"host": ""},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": "127.0.0.1.evil.example"},
    ],
)
def test_a_web_page_elsewhere_cannot_send_its_reader_s_browser(guard, headers):
    assert code(call(guard(), **headers)) == (403, "forbidden")


def test_models_are_listed_by_the_name_that_requests_use(guard):
    listing = call(guard(models="my-run"), "/v1/models", method="GET")
    assert listing[0] == 200 and [model["id"] for model in listing[1]["data"]] == ["my-run"]
    assert call(guard(models="my-run"), "/v1/models/my-run", method="GET")[1]["id"] == "my-run"
    assert code(call(guard(models="my-run"), "/v1/models/other", method="GET")) == (404, "model_not_found")
    assert call(guard(), "/v1/models", method="GET") == (299, "behind"), "vLLM lists its own"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model": "my-run", "messages": []}', 299),
        (b'{"messages": []}', 299),
        (b"[1]", 299),
        (b'{"model": 7}', 299),
        (b"no JSON \xff", 299),
        (b'{"model": "other"}', 404),
        (b'{"model": ""}', 404),
        (b'{"model": "my-run"}' + b" " * 32_000_000, 413),
    ],
)
def test_a_request_for_another_model_is_told_which_there_is(guard, body, expected):
    """What is no request is passed on whole, for the server behind to refuse."""
    messages = [
        {"type": "http.request", "body": body[:10], "more_body": True},
        {"type": "http.request", "body": body[10:]},
        {"type": "http.disconnect"},
    ]
    behind = guard(models="my-run")
    arrived = []

    async def record(scope, receive, send):
        arrived.extend([await receive(), await receive()])
        await app(scope, receive, send)

    behind._app = record
    status, document = call(behind, messages=messages)
    assert status == expected
    if expected == 299:
        assert arrived == [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    else:
        assert arrived == []
    if expected == 404:
        assert "there is my-run" in document["error"]["message"]


def test_web_sockets_are_closed_and_start_and_end_of_the_server_come_through(guard):
    assert call(guard(), kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert call(guard(), kind="lifespan") == []


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.2", False), ("example.org", False), ("localhost.example.org", False), ("", False)],
)  # fmt: skip
def test_loopback_is_what_only_this_machine_reaches(host, expected):
    assert is_loopback(host) is expected
