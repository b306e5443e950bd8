"""The server of `whet ui`: reads run folders and answers a browser of this machine, and nothing else.

Standard library only. It listens to 127.0.0.1. Every address begins with a random word that only the printed URL has,
so neither another user of the machine nor a page in the same browser finds anything; the Host header is checked
besides, against names that are made to point here (DNS rebinding). A run is named by a hash of its place in the list of
runs that were found, and files by a table: no part of an address becomes a part of a path.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from whet.errors import StorageError, WhetError
from whet.report.ui.pages import Answer, Pages

ADDRESS = "127.0.0.1"
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_REQUEST_SECONDS = 10.0


class Server:
    """A context: it answers from its beginning to its end. StorageError where the port is taken."""

    def __init__(self, root: Path, *, port: int, is_held: Callable[[Path], bool]) -> None:
        """`root`: a run folder or a folder of runs; `port` 0: any free one; `is_held`: whether a run is at work."""
        self._pages = Pages(root, is_held=is_held)
        self._word = secrets.token_urlsafe(16)
        try:
            self._http = _Http((ADDRESS, port), _Handler)
        except OSError as error:
            raise StorageError(
                f"port {port} cannot be listened to: {error.strerror}",
                where=ADDRESS,
                mend="--port 0 takes any free one",
            ) from error
        self._http.pages, self._http.word = self._pages, self._word

    @property
    def url(self) -> str:
        """Where the page is; its last part is secret."""
        return f"http://{ADDRESS}:{self._http.server_port}/{self._word}/"

    def serve(self) -> None:
        """Answer until `stop` or an interrupt."""
        self._http.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """From another thread."""
        self._http.shutdown()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    pages: Pages
    word: str


class _Handler(BaseHTTPRequestHandler):
    """One request; the connection is closed after it."""

    server: _Http
    timeout = _REQUEST_SECONDS
    server_version, sys_version = "whet", ""

    def do_GET(self) -> None:
        answer = self._answer()
        with suppress(ConnectionError, TimeoutError):  # nobody waits for it any more
            self._send(answer)

    def _answer(self) -> Answer:
        if self._is_foreign():
            return _refusal(403, "asked for under another name than this machine's own")
        try:
            target = urlsplit(self.path)
        except ValueError:
            return _refusal(400, "no address")
        _, _, rest = target.path.partition("/")
        word, _, name = rest.partition("/")
        if not hmac.compare_digest(word.encode(), self.server.word.encode()) or "/" not in rest:
            return _refusal(404, "open the address that whet ui has printed: its last part is needed")
        query = {key: values[0] for key, values in parse_qs(target.query, max_num_fields=4).items()}
        try:
            return self.server.pages.answer(name, query) or _refusal(404, "there is no such page")
        except WhetError as error:
            return _refusal(404, str(error))

    def _is_foreign(self) -> bool:
        port = self.server.server_port
        ours = (f"{ADDRESS}:{port}", f"localhost:{port}")
        origins = self.headers.get_all("Origin", [])
        return self.headers.get_all("Host", []) not in [[each] for each in ours] or any(
            origin not in (f"http://{each}" for each in ours) for origin in origins
        )

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Content-Security-Policy", answer.policy or _PAGE_POLICY)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if answer.status == 405:
            self.send_header("Allow", "GET")
        self.end_headers()
        self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses by itself: other methods (there is nothing but GET) and requests that are none."""
        self.close_connection = True
        with suppress(ConnectionError, TimeoutError):
            self._send(_refusal(405, "only GET is answered") if code == 501 else _refusal(code, "no request"))

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is logged: an address has the secret word in it."""


def _refusal(status: int, reason: str) -> Answer:
    return Answer(status=status, kind="application/json", body=json.dumps({"error": reason}).encode())
