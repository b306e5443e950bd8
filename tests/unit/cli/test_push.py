"""`whet push` sends what loaders read and nothing else, says what went wrong, and never shows the token."""

from __future__ import annotations

import base64
import json
import logging
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from whet.cli import verbs
from whet.cli.main import app
from whet.errors import HubError, RecipeError, StorageError

pytestmark = pytest.mark.slow

CANARY = "hf_CanaryCanaryCanaryCanary"
ADDRESS = ("owner/tuned",)


@dataclass
class WritableHub:
    """A hub for one repository; `status` refuses at `fails_at`."""

    status: int = 200
    fails_at: str = "/api/repos/create"
    created: list[dict] = field(default_factory=list)
    branches: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    commit_path: str = ""
    rejects_card: bool = False


def handler_of(hub: WritableHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = urlsplit(self.path).path
            hub.tokens.add(self.headers.get("Authorization", ""))
            if hub.status != 200 and hub.fails_at in path:
                # a server may repeat what it was sent
                self.answer({"error": f"refused {self.headers.get('Authorization')}"}, hub.status)
            elif path == "/api/repos/create":
                hub.created.append(json.loads(body))
                self.answer({"url": f"http://{self.headers['Host']}/owner/tuned"})
            elif "/branch/" in path:
                hub.branches.append(path.rsplit("/", 1)[-1])
                self.answer({})
            elif path == "/api/validate-yaml":
                faults = [{"message": "license must be one of ..."}] if hub.rejects_card else []
                self.answer({"errors": faults, "warnings": []}, 400 if faults else 200)
            elif "/preupload/" in path:
                names = [entry["path"] for entry in json.loads(body)["files"]]
                modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for name in names]
                self.answer({"files": modes})
            elif "/commit/" in path:
                hub.commit_path = path
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                self.answer({"commitUrl": f"http://{self.headers['Host']}/owner/tuned/commit/1", "commitOid": "1" * 40})

        def do_GET(self) -> None:
            self.answer({"error": "no"}, 404)

        def answer(self, value: object, status: int = 200) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(content)

    return Handler


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = WritableHub()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub)) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield hub
        server.shutdown()


@pytest.fixture
def export(tmp_path):
    """An export with everything around it that must stay here."""
    folder = tmp_path / "export"
    folder.mkdir()
    save_file({"w": torch.ones(2)}, folder / "adapter_model.safetensors")
    for name in ("adapter_config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "chat_template.jinja"):
        (folder / name).write_text("{}")
    (folder / "proof.json").write_text('{"status": "proved"}')
    for name in ("recipe.yaml", "metrics.jsonl", "trainer_state.json", "optimizer.safetensors", ".env", "rows.jsonl"):
        (folder / name).write_text("private")
    for name in ("checkpoint-9", "logs", "evaluations"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_text("private")
    return folder


SENT = {
    "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "proof.json",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _verbs():
    if not app.registered_commands:
        verbs.register(app)


def push(*arguments: object):
    """(output, error) of the command; the token must be in neither."""
    with_log = CliRunner().invoke(app, ["push", *map(str, arguments)])
    error = with_log.exception
    shown = with_log.output + str(error) + repr(error)
    while error is not None:
        shown += str(error)
        error = error.__cause__
    assert CANARY not in shown
    return with_log.output, with_log.exception


def test_only_what_loaders_read_is_sent(hub, export, caplog):
    caplog.set_level(logging.DEBUG)
    output, error = push(export, *ADDRESS)
    assert error is None, output
    assert set(hub.files) == SENT
    assert hub.files["adapter_model.safetensors"] == (export / "adapter_model.safetensors").read_bytes()
    assert hub.tokens == {f"Bearer {CANARY}"}
    assert CANARY not in caplog.text
    assert hub.commit_path.endswith("/commit/main")
    assert "pushed: http://127.0.0.1" in output
    assert hub.created[0].get("private", False) in (False, None)


def test_files_and_sizes_are_listed_before_anything_is_sent(hub, export):
    hub.status = 500
    output, error = push(export, *ADDRESS)
    assert isinstance(error, HubError)
    for name in SENT:
        assert name in output
    assert "not sent: .env, checkpoint-9, evaluations, logs, metrics.jsonl" in output


def test_a_dry_run_asks_nobody(hub, export, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    output, error = push(export, *ADDRESS, "--dry-run")
    assert error is None
    assert not hub.tokens
    assert "adapter_model.safetensors" in output and "nothing was sent" in output


def test_private_and_branch_are_passed_on(hub, export):
    _, error = push(export, *ADDRESS, "--private", "--revision", "v2")
    assert error is None
    assert hub.created[0].get("private") is True or hub.created[0].get("visibility") == "private"
    assert hub.branches == ["v2"]
    assert hub.commit_path.endswith("/commit/v2")


@pytest.mark.parametrize("status", [None, "not proved: --no-proof was given"])
def test_what_is_not_proved_is_pushed_only_if_asked_for(hub, export, status):
    (export / "proof.json").unlink()
    if status:
        (export / "proof.json").write_text(json.dumps({"status": status}))
    _, error = push(export, *ADDRESS)
    assert isinstance(error, RecipeError) and "not proved" in str(error)
    assert not hub.tokens
    _, error = push(export, *ADDRESS, "--unproven")
    assert error is None
    assert "adapter_model.safetensors" in hub.files


@pytest.mark.parametrize("fails_at", ["/api/repos/create", "/preupload/", "/commit/"])
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "the token from the environment variable HF_TOKEN is not valid (HTTP 401)"),
        (403, "may not write to owner/tuned (HTTP 403)"),
        (404, "no owner or repository owner/tuned"),
        (429, "too many requests"),
        (400, "refused the upload of owner/tuned (HTTP 400)"),
        (503, "is out of order (HTTP 503)"),
    ],
)
def test_every_refusal_has_its_own_sentence(hub, export, status, said, fails_at, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.status, hub.fails_at = status, fails_at
    _, error = push(export, *ADDRESS)
    assert isinstance(error, HubError)
    assert said in str(error)


def test_front_matter_that_the_hub_does_not_take_is_named(hub, export):
    hub.rejects_card = True
    _, error = push(export, *ADDRESS)
    assert isinstance(error, HubError) and "front matter of README.md" in str(error)
    assert not hub.files


def test_a_hub_that_is_not_there_is_named(hub, export, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    _, error = push(export, *ADDRESS)
    assert isinstance(error, HubError) and "127.0.0.1 gave no usable answer" in str(error)


def test_without_a_token_nothing_is_tried(hub, export, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    _, error = push(export, *ADDRESS)
    assert isinstance(error, HubError) and "set HF_TOKEN" in str(error)
    assert not hub.tokens


@pytest.mark.parametrize("name", ["tuned", "a/b/c", "owner/na me", "../x", "owner/--x"])
def test_a_name_that_the_hub_has_not_is_refused(hub, export, name):
    _, error = push("--", export, name)
    assert isinstance(error, RecipeError)
    assert not hub.tokens


def test_a_link_is_never_followed(hub, export, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("private")
    (export / "README.md").unlink()
    (export / "README.md").symlink_to(secret)
    _, error = push(export, *ADDRESS)
    assert isinstance(error, StorageError) and "README.md" in str(error)
    assert not hub.tokens


def test_a_folder_without_weights_is_refused(hub, tmp_path):
    (tmp_path / "empty").mkdir()
    _, error = push(tmp_path / "empty", *ADDRESS, "--unproven")
    assert isinstance(error, RecipeError) and "no weights" in str(error)
