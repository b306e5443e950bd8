"""`whet serve` under abuse: a real server of transformers behind the guard, asked by real connections."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import tiny_runs
from canaries import CANARIES, Processes, leaks, leaks_in_files

from whet.recipe.schema import Adapter

TOKEN = CANARIES["MY_SERVE_TOKEN"]
NUM_SLOW = 200
TIMEOUT_SECONDS = 900


def ask(port: int, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    content = None if body is None else json.dumps(body).encode() if not isinstance(body, bytes) else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if body is None else "POST", path, content, {"Content-Type": "application/json"} | named)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text


@pytest.mark.fault
@pytest.mark.timeout(1800)
def test_a_server_stays_up_bounded_and_closed_to_strangers(workplace, outcome):
    workplace.environment |= CANARIES
    base = tiny_runs.write_base(workplace.folder / "base")
    run = tiny_runs.write_adapter_run(workplace.folder / "run", base, Adapter(rank=4, alpha=8.0), size=0.3).folder
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = workplace.folder / "server.log"
    with log.open("w") as file, Processes() as processes, ExitStack() as slow:
        process = workplace.start(
            "serve", str(run), "--port", str(port), "--api-key-env", "MY_SERVE_TOKEN", stdout=file
        )
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while "answers at" not in (said := log.read_text(encoding="utf-8")):
            assert process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.1)
        held = {}
        # only this machine's loopback is listened to
        listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        mine = [line.split()[1] for line in listening.splitlines() if f":{port:04X} " in f"{line.split()[1]} "]
        held["loopback alone"] = set(mine) == {f"0100007F:{port:04X}"}
        chat, token = "/v1/chat/completions", {"Authorization": f"Bearer {TOKEN}"}
        question = {"model": "tiny", "messages": [{"role": "user", "content": "Why?"}]}
        refused = {
            "no token": (ask(port, chat, question), 401),
            "a wrong token": (ask(port, chat, question, Authorization="Bearer x"), 401),
            "another model": (ask(port, chat, question | {"model": "evil/model"}, **token), 404),
            "loading a model": (ask(port, "/load_model", {"model": "evil/model"}, **token), 404),
            "too many tokens": (ask(port, chat, question | {"max_tokens": 10**6}, **token), 400),
            "too large": (ask(port, chat, b" ", Content_Length="40000000", **token), 413),
            "a template in the request": (
                ask(port, chat, question | {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, **token), 400,
            ),
            "settings in the request": (ask(port, chat, question | {"generation_config": "{}"}, **token), 400),
            "a file as a picture": (
                ask(port, chat, {"model": "tiny", "messages": [{"role": "user", "content": [
                    {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]}, **token), 400,
            ),
        }  # fmt: skip
        held |= {name: answer[0] == expected for name, (answer, expected) in refused.items()}
        foreign = ask(port, chat, question | {"max_tokens": 2}, Origin="https://evil.example", **token)
        held["no permission for other origins"] = not any("access-control" in name for name in foreign[1])
        held["still answers"] = foreign[0] == 200 and "choices" in foreign[2]
        for number in range(NUM_SLOW):
            connection = slow.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            if number % 2:  # half of them trickle a body
                connection.sendall(f"Authorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n\r\n{{".encode())
        begun = time.monotonic()
        status, _, _ = ask(port, "/health")
        waited = time.monotonic() - begun
        held[f"{NUM_SLOW} slow connections do not block /health"] = status == 200
        answer = ask(port, chat, question | {"max_tokens": 2}, **token)
        held[f"{NUM_SLOW} slow connections do not block answers"] = answer[0] == 200
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=TIMEOUT_SECONDS)
    found = [*leaks(log.read_text()), *leaks_in_files(workplace.folder), *sorted(processes.found)]
    held["the token is nowhere"] = not found
    outcome(
        fault="whet serve: strangers, other models, templates, files, sizes, slow connections", group="security",
        tries=len(held), held=sum(held.values()),
        note=f"{NUM_SLOW} connections that never end; /health answered after {waited:.2f} s; ended with {code}",
    )  # fmt: skip
    assert all(held.values()), (held, {name: answer[0][2][:200] for name, answer in refused.items()}, found)
