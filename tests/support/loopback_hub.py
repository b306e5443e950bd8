"""Servers on this machine that play the hub: `owner/open`, a dataset that works, and `faulty/NAME`, which do not.

LoopbackHub answers for the dataset alone. FaultyHub has a model and a dataset under each name of FAULTS, with that
fault until somebody asks for `/heal/NAME`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

COMMIT = "c0ffee" + "0" * 34
ROWS = b'{"question": "2+2?", "answer": "4"}\n{"question": "3+3?", "answer": "6"}\n'
MODEL = {"config.json": b"{}", "tokenizer.json": b'{"x": 1}', "model.safetensors": bytes(range(256)) * 1200}
SLOW_SECONDS = 33
"""how long a slow file takes: longer than whet is patient with a hub that is silent"""


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class LoopbackHub(BaseHTTPRequestHandler):
    """Answers for `owner/open`; subclasses answer for others."""

    rows = ROWS

    def do_GET(self) -> None:
        self.answer_for(self.path, "owner/open", {"train.jsonl": self.rows})

    def answer_for(self, path: str, repo: str, files: dict[str, bytes]) -> None:
        """What the hub says of `repo`, which holds `files`."""
        sums = {name: git_sha1(content) for name, content in files.items()}
        if "/resolve/" in path:
            name = path.partition("?")[0].rpartition("/")[2]
            if name in files and f"/{COMMIT}/" in path:
                self.send(200, files[name], {"ETag": f'"{sums[name]}"', "X-Repo-Commit": COMMIT})
            else:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif "/tree/" in path:
            entries = [{"type": "file", "path": n, "size": len(c), "oid": sums[n]} for n, c in files.items()]
            self.send(200, json.dumps(entries).encode())
        else:
            siblings = [{"rfilename": n, "size": len(c), "blobId": sums[n]} for n, c in files.items()]
            self.send(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings, "tags": []}).encode())

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.send_body(body)

    def send_body(self, body: bytes) -> None:
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What a repository answers instead of what it should."""

    on_file: bool = False
    """on its weights or rows; otherwise on the list of its files"""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: Callable[[FaultyHub, bytes], None] | None = None
    """sends the body in its own way"""


def _in_pieces(hub: FaultyHub, body: bytes) -> None:
    size = max(1, len(body) // SLOW_SECONDS)
    for start in range(0, len(body), size):
        hub.wfile.write(body[start : start + size])
        time.sleep(1)


def _for_ever(hub: FaultyHub, body: bytes) -> None:
    for _ in range(600):
        hub.wfile.write(b" ")
        time.sleep(0.2)


def _half_then_silence(hub: FaultyHub, body: bytes) -> None:
    hub.wfile.write(body[: len(body) // 2])
    hub.wfile.flush()
    time.sleep(120)


def _half(hub: FaultyHub, body: bytes) -> None:
    hub.wfile.write(body[: len(body) // 2])


def _damaged(hub: FaultyHub, body: bytes) -> None:
    hub.wfile.write(body[:-2] + bytes([body[-2] ^ 1]) + body[-1:])


_LIMITED = (("Retry-After", "300"),)
_GATED = (("X-Error-Code", "GatedRepo"),)
FAULTS = {
    "list-401": Fault(status=401, headers=(("X-Error-Message", "Invalid credentials in Authorization header"),)),
    "list-403-gated": Fault(status=403, headers=_GATED),
    "list-403": Fault(status=403),
    "list-404": Fault(status=404, headers=(("X-Error-Code", "RepoNotFound"),)),
    "list-429-retry-after": Fault(status=429, headers=_LIMITED),
    "list-429": Fault(status=429),
    "list-500": Fault(status=500),
    "list-503": Fault(status=503),
    "list-redirects": Fault(status=302),
    "list-stalls": Fault(body=_half_then_silence),
    "list-trickles": Fault(body=_for_ever),
    "file-401": Fault(on_file=True, status=401),
    "file-403-gated": Fault(on_file=True, status=403, headers=_GATED),
    "file-429-retry-after": Fault(on_file=True, status=429, headers=_LIMITED),
    "file-500": Fault(on_file=True, status=500),
    "file-503": Fault(on_file=True, status=503),
    "file-redirects": Fault(on_file=True, status=302),
    "file-stalls": Fault(on_file=True, body=_half_then_silence),
    "file-truncated": Fault(on_file=True, body=_half),
    "file-damaged": Fault(on_file=True, body=_damaged),
    "file-slow": Fault(on_file=True, body=_in_pieces),
}
"""`list-...`: on everything but files; `file-...`: the list is right, the weights or rows are not"""
SOUND = "sound"
"""the name under which nothing is wrong"""
_REPOSITORIES = {**FAULTS, SOUND: Fault()}


class FaultyHub(LoopbackHub):
    """Answers for `faulty/NAME`, as a model and as a dataset."""

    healed: ClassVar[set[str]] = set()
    fault: Fault | None = None

    def do_GET(self) -> None:
        name = re.match(r".*faulty/([\w-]+)", self.path)
        if self.path.startswith("/heal/"):
            FaultyHub.healed.add(self.path.removeprefix("/heal/"))
            self.send(200, b"")
        elif name is None or name[1] not in _REPOSITORIES:
            self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        else:
            is_dataset = "datasets/" in self.path
            self.answer_faulty(name[1], {"train.jsonl": ROWS} if is_dataset else MODEL, is_dataset=is_dataset)

    def answer_faulty(self, name: str, files: dict[str, bytes], *, is_dataset: bool) -> None:
        fault = _REPOSITORIES[name]
        is_at_it = fault.on_file == ("/resolve/" in self.path) and f"{name}.{is_dataset}" not in self.healed
        if fault.on_file:
            is_at_it &= self.path.partition("?")[0].endswith(("model.safetensors", "train.jsonl"))
        self.fault = fault if is_at_it else None
        if is_at_it and fault.status != 200:
            location = {"Location": self.path} if fault.status == 302 else {}
            self.send(fault.status, b"{}", dict(fault.headers) | location)
        else:
            self.answer_for(self.path, f"faulty/{name}", files)

    def send_body(self, body: bytes) -> None:
        if self.fault is not None and self.fault.body is not None:
            self.fault.body(self, body)
        else:
            super().send_body(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *args: object) -> None:
        """A client that gave up is part of the tests, not news."""


@contextmanager
def serving(handler: type[LoopbackHub]) -> Iterator[str]:
    """The address of a running server, for HF_ENDPOINT."""
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
