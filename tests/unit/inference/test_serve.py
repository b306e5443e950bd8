"""Which server, where, with which arguments; and that nothing of it is left."""

import fcntl
import importlib.util
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from whet.errors import RecipeError, WhetError
from whet.inference import serve
from whet.inference.serve import Address
from whet.inference.serve_guard import MODELS, TOKEN

TOKEN_TEXT = "a-token-of-some-length"


@pytest.fixture
def installed(monkeypatch):
    """Only the named packages can be found."""

    def only(*names):
        find = importlib.util.find_spec
        packages = ("vllm", "fastapi", "uvicorn", "openai")
        monkeypatch.setattr(
            importlib.util, "find_spec",
            lambda name, package=None: (name in names or None) if name in packages else find(name, package),
        )  # fmt: skip

    return only


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path))
    return tmp_path / "serve"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_vllm_is_taken_where_it_is_installed(installed):
    installed("vllm", "fastapi", "uvicorn", "openai")
    assert [serve.choose_server(name) for name in ("auto", "vllm", "transformers")] == ["vllm", "vllm", "transformers"]
    installed("fastapi", "uvicorn", "openai")
    assert serve.choose_server("auto") == "transformers"


def test_what_is_not_installed_is_told_with_the_command_that_installs_it(installed):
    installed("fastapi")
    with pytest.raises(RecipeError, match=r"not installed: uvicorn, openai\n.*'whet\[serve\]'"):
        serve.choose_server("auto")
    with pytest.raises(RecipeError, match=r"vLLM is not installed\n.*'whet\[vllm\]'"):
        serve.choose_server("vllm")


def test_a_port_in_use_is_told_before_a_model_is_loaded():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RecipeError, match=rf"127.0.0.1:{port}: cannot listen there .*in use.*\n.*another --port"):
            serve.check_address(Address(host="127.0.0.1", port=port))
    serve.check_address(Address(host="127.0.0.1", port=port))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "example.org"])
def test_other_machines_are_not_served_without_a_token(host):
    with pytest.raises(RecipeError, match="so requests must bring a token"):
        serve.check_address(Address(host=host, port=8000))


def test_a_host_that_is_not_ours_is_told():
    with pytest.raises(RecipeError, match="cannot listen there"):
        serve.check_address(Address(host="192.0.2.7", port=free_port(), token=TOKEN_TEXT))


@pytest.mark.parametrize(("token", "said"), [("short", "has 5 characters"), ("\u00e9" * 20, "no HTTP header carries")])
def test_a_token_that_protects_nothing_is_refused(token, said):
    with pytest.raises(RecipeError, match=said):
        serve.check_address(Address(host="127.0.0.1", port=free_port(), token=token))


def test_the_token_is_in_the_environment_alone():
    address = Address(host="0.0.0.0", port=8000, token=TOKEN_TEXT)
    environment = serve.server_environment("transformers", "my-run", address)
    assert environment[TOKEN] == TOKEN_TEXT and environment[MODELS] == "my-run"
    assert serve.server_environment("vllm", "my-run", address)[MODELS] == ""
    commands = [
        serve.transformers_command("my-run", dtype="float32", device="cpu", address=address),
        serve.vllm_command(Path("/f"), "my-run", dtype="bfloat16", address=address),
    ]
    assert not any(TOKEN_TEXT in word for command in commands for word in command)
    assert TOKEN_TEXT not in repr(address)


def options(command):
    """`--name value` pairs."""
    return {word: after for word, after in zip(command, [*command[1:], ""], strict=True) if word.startswith("--")}


def test_vllm_serves_a_whole_model_under_the_run_s_name():
    address = Address(host="::1", port=8001)
    command = serve.vllm_command(Path("/w/my-run"), "my-run", dtype="bfloat16", address=address)
    assert command[:5] == [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", "/w/my-run"]
    expected = {"--served-model-name": "my-run", "--host": "::1", "--port": "8001", "--dtype": "bfloat16"}
    found = options(command)
    assert expected.items() <= found.items()
    assert "--enable-lora" not in found and "--tokenizer" not in found
    module, _, name = found["--middleware"].rpartition(".")
    assert isinstance(getattr(importlib.import_module(module), name), type), "vLLM adds a class as ASGI middleware"
    assert address.url == "http://[::1]:8001/v1"


def test_vllm_serves_base_and_adapter_asked_as_the_run_asks():
    command = serve.vllm_command(
        Path("/w/my-run"), "my-run", dtype="bfloat16", address=Address(host="127.0.0.1", port=8000),
        base=Path("/models/base"), base_name="owner/base", adapter=Path("/w/.adapter"), max_lora_rank=16,
    )  # fmt: skip
    found = options(command)
    assert command[4] == "/models/base" and found["--served-model-name"] == "owner/base"
    assert found["--tokenizer"] == found["--generation-config"] == "/w/my-run"
    assert found["--chat-template"] == "/w/my-run/chat_template.jinja"
    assert found["--max-lora-rank"] == "16" and "--enable-lora" in found
    said = {"name": "my-run", "path": "/w/.adapter", "base_model_name": "owner/base"}
    assert json.loads(found["--lora-modules"]) == said


def test_a_work_folder_is_gone_afterwards_whatever_happened(cache):
    with pytest.raises(KeyboardInterrupt), serve.work_folder() as folder:
        (folder / "weights").write_text("large")
        raise KeyboardInterrupt
    assert list(cache.iterdir()) == []


def test_folders_of_killed_servers_are_removed_and_those_of_running_ones_stay(cache):
    for name in ("killed", "running"):
        (cache / name).mkdir(parents=True)
        (cache / f"{name}.lock").touch()
    with (cache / "running.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with serve.work_folder() as folder:
            assert folder.is_dir()
            assert {path.name for path in cache.iterdir() if path.is_dir()} == {"running", folder.name}


SERVER = """
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(os.getcwd(), os.environ["SAID"], file=open("said.txt", "w"), flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_too(tmp_path, number):
    port = free_port()
    ready = []

    def on_ready():
        ready.append(True)
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()

    serve.run_server(
        [sys.executable, "-c", SERVER, str(port)], folder=tmp_path, environment={**os.environ, "SAID": "hello"},
        address=Address(host="127.0.0.1", port=port), on_ready=on_ready,
    )  # fmt: skip
    assert ready == [True]
    assert (tmp_path / "said.txt").read_text().split() == [str(tmp_path), "hello"]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_a_server_that_ends_by_itself_is_an_error(tmp_path):
    with pytest.raises(WhetError, match="ended with exit status 3"):
        serve.run_server(
            [sys.executable, "-c", "raise SystemExit(3)"], folder=tmp_path, environment=os.environ,
            address=Address(host="127.0.0.1", port=free_port()), on_ready=lambda: pytest.fail("it never listened"),
        )  # fmt: skip
