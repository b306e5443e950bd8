"""What stands in front of a model server: who may ask, and which addresses there are. Standard library only.

An ASGI middleware of transformers' server and of vLLM's (whose own key leaves other addresses open). It is made of its
name alone (`vllm serve --middleware`), so its settings come in environment variables, where no list of processes shows
the token.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from whet.inference.serve_limits import MOST_BODY_SECONDS, most_body_bytes, why_refused

TOKEN = "WHET_SERVE_TOKEN"  # noqa: S105 - the name of a variable
"""environment variable: the token that every request must bring; empty: requests of this machine alone are served"""
MODELS = "WHET_SERVE_MODELS"
"""environment variable: the names that requests may ask for and /v1/models lists, one a line; empty: the server behind
knows its own"""
CONTEXT = "WHET_SERVE_CONTEXT"
"""environment variable: tokens that the model reads, and the most that an answer may have; empty: not known"""

_HEALTH = "/health"
_SERVED = ("/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/responses", _HEALTH)

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[MutableMapping[str, Any], _Receive, _Send], Awaitable[None]]


class Guard:
    """The server `app` behind a check of token, caller and address."""

    def __init__(self, app: _App) -> None:
        self._app = app
        self._token = os.environ.get(TOKEN, "").encode()
        self._models = os.environ.get(MODELS, "").split("\n") if os.environ.get(MODELS) else []
        self._context = int(os.environ.get(CONTEXT) or 0) or None

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (answer := self._own_answer(scope)) is not None:
            await _reply(send, *answer)
        elif scope["method"] == "POST":
            await self._pass_on_checked(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _pass_on_checked(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        """The request for the server behind, unless it is too much, or asks for what is not served."""
        most = most_body_bytes(self._context)
        try:
            is_announced = _announced_bytes(scope) <= most
            body = await asyncio.wait_for(_read_body(receive, most), MOST_BODY_SECONDS) if is_announced else None
        except TimeoutError:
            await _reply(send, 408, _error(f"a request arrives within {MOST_BODY_SECONDS:.0f} s", "too_slow"))
            return
        if body is None:
            await _reply(send, 413, _error(f"a request has {most:,} bytes at most", "too_large"))
            return
        if (answer := self._refuse_request(body)) is not None:
            await _reply(send, *answer)
            return
        read: list[_Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> _Message:
            return read.pop() if read else await receive()

        await self._app(scope, receive_again, send)

    def _refuse_request(self, body: bytes) -> tuple[int, dict[str, Any]] | None:
        """Status and document for what may not be asked; what is no request is the server's to refuse."""
        try:
            document = json.loads(body)
        except RecursionError:
            return 400, _error("the request is nested too deeply", "bad_request")
        except ValueError:
            return None
        if not isinstance(document, dict):
            return None
        name = document.get("model")
        if self._models and isinstance(name, str) and name not in self._models:
            return self._no_model(name)
        reason = why_refused(document, self._context)
        return None if reason is None else (400, _error(reason, "bad_request"))

    def _own_answer(self, scope: MutableMapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Status and document where the server behind is not asked."""
        path = str(scope["path"])
        headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
        if path != _HEALTH:
            refusal = self._refuse_token(headers) if self._token else _refuse_caller(headers)
            if refusal is not None:
                return refusal
        if path not in _SERVED and not path.startswith("/v1/models/"):
            return 404, _error(f"{path} is not served here; there are {', '.join(_SERVED)}", "not_found")
        if self._models and scope["method"] == "GET" and path.startswith("/v1/models"):
            return self._list_models(path.removeprefix("/v1/models").removeprefix("/"))
        return None

    def _refuse_token(self, headers: dict[bytes, bytes]) -> tuple[int, dict[str, Any]] | None:
        given = headers.get(b"authorization", b"")
        # in constant time: how long the comparison takes must not tell how much of a guess was right
        if hmac.compare_digest(given, b"Bearer " + self._token):
            return None
        said = "a wrong token" if given else "no token"
        return 401, _error(f"the request brings {said} (Authorization: Bearer TOKEN)", "invalid_api_key")

    def _list_models(self, name: str) -> tuple[int, dict[str, Any]]:
        models = [{"id": each, "object": "model", "created": 0, "owned_by": "whet"} for each in self._models]
        if not name:
            return 200, {"object": "list", "data": models}
        found = [model for model in models if model["id"] == name]
        return (200, found[0]) if found else self._no_model(name)

    def _no_model(self, name: str) -> tuple[int, dict[str, Any]]:
        return 404, _error(f"there is no model {name!r}; there is {', '.join(self._models)}", "model_not_found")


def _refuse_caller(headers: dict[bytes, bytes]) -> tuple[int, dict[str, Any]] | None:
    """Without a token: a web page may send its reader's browser here, under another name or from another origin."""
    host = _host_of(f"//{headers.get(b'host', b'').decode('latin-1')}")
    origin = headers.get(b"origin", b"").decode("latin-1")
    callers: Iterable[str | None] = [host, _host_of(origin)] if origin else [host]
    if all(is_loopback(caller or "") for caller in callers):
        return None
    return 403, _error("only programs of this machine are served without a token", "forbidden")


def _host_of(url: str) -> str | None:
    """The host that a URL names; None where it is none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether `host` can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _announced_bytes(scope: MutableMapping[str, Any]) -> int:
    """What the header says about the size; 0 where it says nothing."""
    said = [bytes(value) for name, value in scope["headers"] if bytes(name).lower() == b"content-length"]
    return int(said[0]) if said and said[0].isdigit() else 0


async def _read_body(receive: _Receive, most_bytes: int) -> bytes | None:
    """The whole body; None where it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most_bytes:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


async def _reply(send: _Send, status: int, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
