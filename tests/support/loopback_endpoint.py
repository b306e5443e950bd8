"""A server of OpenAI's kind on this machine: `tuned` adds up, `base` only what begins with a multiple of three."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "s3cret-key"
MODELS = ("base", "tuned")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.wants_key and self.headers["Authorization"] != f"Bearer {KEY}":
            self._reply(401, {"error": "no key"})
        elif self.path == "/v1/models" and self.server.lists_models:
            self._reply(200, {"object": "list", "data": [{"id": name} for name in MODELS]})
        else:
            self._reply(404, {"error": "unknown"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({**body, "path": self.path, "key": self.headers["Authorization"]})
        if self.server.is_broken:
            self._reply(500, {"error": "broken"})
            return
        a, b = map(int, re.findall(r"\d+", body["messages"][-1]["content"])[-2:])
        text = str(a + b) if body["model"] == "tuned" or a % 3 == 0 else "well"
        message = {"role": "assistant", "content": text}
        self._reply(
            200,
            {
                "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
            },
        )  # fmt: skip

    def _reply(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Endpoint(ThreadingHTTPServer):
    """Told how to behave by its attributes; remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.lists_models, self.wants_key, self.is_broken = True, False, False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def serve() -> Iterator[Endpoint]:
    """A running endpoint."""
    with Endpoint() as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield endpoint
        finally:
            endpoint.shutdown()
            thread.join()
