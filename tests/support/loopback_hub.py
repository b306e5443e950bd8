"""A server on this machine that plays the hub for one open dataset, `owner/open`, with one file of JSON lines."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

COMMIT = "c0ffee" + "0" * 34


class LoopbackHub(BaseHTTPRequestHandler):
    """Answers for `owner/open`; subclasses answer for others."""

    rows = b'{"question": "2+2?", "answer": "4"}\n{"question": "3+3?", "answer": "6"}\n'

    def do_GET(self) -> None:
        if "/resolve/" in self.path and not self.path.endswith(f"/resolve/{COMMIT}/train.jsonl"):
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif "/resolve/" in self.path:
            self.send(200, self.rows, {"ETag": '"rows"', "X-Repo-Commit": COMMIT})
        elif "/tree/" in self.path:
            entry = {"type": "file", "path": "train.jsonl", "size": len(self.rows), "oid": "rows"}
            self.send(200, json.dumps([entry]).encode())
        else:
            answer = {"id": "owner/open", "sha": COMMIT, "siblings": [{"rfilename": "train.jsonl"}], "tags": []}
            self.send(200, json.dumps(answer).encode())

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(handler: type[LoopbackHub]) -> Iterator[str]:
    """The address of a running server, for HF_ENDPOINT."""
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
