"""A loopback server plays the hub; each case runs in its own process because the endpoint is read at import."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("datasets", reason="needs whet[data]")

ANSWERS = {
    "gone": (404, "RepoNotFound"),
    "closed": (403, "GatedRepo"),
    "revision": (404, "RevisionNotFound"),
    "forbidden": (403, None),
    "broken": (500, None),
}

PROGRAM = """
import json, sys
from whet.data.hub import read_hub_rows
from whet.errors import WhetError
for name in sys.argv[1:]:
    try:
        read_hub_rows(name, split="train", config=None, revision="v1" if "revision" in name else None)
    except WhetError as error:
        print(json.dumps([name, type(error).__name__, error.exit_code, str(error)]))
"""


class _Hub(BaseHTTPRequestHandler):
    def do_GET(self):
        name = next(name for name in ANSWERS if f"owner/{name}" in self.path)
        status, code = ANSWERS[name]
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


def _run(names, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], env=clean | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


def test_each_refusal_of_the_hub_is_told_apart_and_no_token_is_printed(tmp_path):
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        told = _run(
            [f"owner/{name}" for name in ANSWERS], HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path), HF_TOKEN="hf_CANARY"
        )
    finally:
        server.shutdown()
        server.server_close()
    assert {name: (kind, code) for name, (kind, code, _) in told.items()} == {
        f"owner/{name}": ("HubError", 6) for name in ANSWERS
    }
    assert "not found on the hub" in told["owner/gone"][2]
    assert "gated" in told["owner/closed"][2]
    assert "no revision v1" in told["owner/revision"][2]
    assert "status 403" in told["owner/forbidden"][2] and "token" in told["owner/forbidden"][2]
    assert "status 500" in told["owner/broken"][2]
    assert "CANARY" not in json.dumps(told)


def test_an_unreachable_hub_and_an_impossible_name_are_told(tmp_path):
    told = _run(["owner/any", "owner/a b"], HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    assert "cannot be reached" in told["owner/any"][2]
    assert told["owner/a b"][:2] == ["RecipeError", 2]


def test_offline_without_a_copy_is_a_hub_error(tmp_path):
    told = _run(["owner/any"], HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert told["owner/any"][:2] == ["HubError", 6]
