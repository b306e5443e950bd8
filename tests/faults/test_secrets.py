"""Tokens and passwords of the environment: in no file, no output and no list of processes, whatever goes wrong.

Each is a canary that is looked for in every byte that was written or said. The hub of these tests is hostile: it says
back what it was sent.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from canaries import CANARIES, PASSWORD, PROGRAM, Processes, leaks, leaks_in_files, write_judged_recipe


class _Echo(BaseHTTPRequestHandler):
    server: EchoHub

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = self.headers.get("Authorization", "")
        self.server.heard.append(said)
        body = json.dumps({"error": f"refused: {said}", "message": said}).encode()
        self.send_response(self.server.status)
        self.send_header("X-Error-Message", f"refused {said}")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_HEAD = _answer

    def log_message(self, *_: object) -> None:
        pass


class EchoHub(ThreadingHTTPServer):
    """Refuses everything with `status` and tells the token that it was sent."""

    daemon_threads = True

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Echo)
        self.status, self.heard = status, list[str]()


@contextmanager
def echo_hub(status: int) -> Iterator[EchoHub]:
    with EchoHub(status) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


@pytest.fixture
def secretive(workplace):
    """A workplace whose environment is full of secrets."""
    workplace.environment |= CANARIES
    workplace.environment["HTTPS_PROXY"] = f"http://ada:{PASSWORD}@127.0.0.1:9"
    return workplace


@pytest.mark.fault
@pytest.mark.timeout(1800)
def test_no_secret_of_the_environment_is_written_said_or_listed(secretive, outcome):
    """Training (finished, stopped by an error, one and two ranks), and every verb that writes, with a hostile hub."""
    place, said = secretive, {}
    with Processes() as processes, echo_hub(401) as hub:
        write_judged_recipe(place)
        said["train"] = place.train()
        said["train, dry run"] = place.run("train", str(place.recipe), "--dry-run")[1]
        two = f"output={place.folder / 'two'}"
        said["two ranks"] = place.run("launch", "local", str(place.recipe), "--nproc", "2", two, "batch.micro_size=2")[
            1
        ]
        address = f"http://ada:{PASSWORD}@127.0.0.1:{hub.server_port}"
        place.environment |= {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        said["a model that the hub refuses"] = place.run(
            "train", str(place.recipe), "model.id=owner/model", "output=b"
        )[1]
        # without a password in the address it is the token that is sent
        place.environment["HF_ENDPOINT"] = f"http://127.0.0.1:{hub.server_port}"
        run, recipe = str(place.folder / "run"), str(place.recipe)
        commands = [
            ["evaluate", run, "--fresh"], ["report", run], ["compare", run],
            ["merge", run, "--output", str(place.folder / "merged")],
            ["export", run, "--to", "adapter", "--output", str(place.folder / "adapter")],
            ["push", str(place.folder / "merged"), "ada/tuned"], ["prepare", "--model", "owner/model"],
            ["train", recipe, "data.train.0.source=owner/rows", "output=c"],
            ["-v", "train", recipe, "data.train.0.source=owner/rows", "output=d"],
            ["launch", "docker", recipe, "--dry-run"], ["explain", recipe], ["diff", run, recipe],
            ["runs", "show", run],
            ["launch", "kubernetes", recipe, "--image", "i", "--claim", "c", "--dry-run"],
            ["launch", "skypilot", recipe, "--image", "i", "--gpus-per-node", "0", "--dry-run"],
            ["generate", run, "--prompt", "Why?", "--max-new-tokens", "3", "--output", str(place.folder / "a.jsonl")],
        ]  # fmt: skip
        (place.folder / "request.json").write_text(
            json.dumps(
                {"traps": [], "canary": "/nonexistent", "commands": [{"arguments": words} for words in commands]}
            )
        )
        process = place.start(
            str(place.folder / "request.json"), str(place.folder / "answer.json"), program=("-P", str(PROGRAM))
        )
        said["the other verbs"] = process.communicate(timeout=1700)[0]
        answers = json.loads((place.folder / "answer.json").read_text())
        assert any(hub.heard), "the hub was sent a secret"
    codes = {" ".join(each["arguments"][:3]): each["code"] for each in answers}
    assert len(answers) == len(commands) and codes.pop(f"push {place.folder / 'merged'} ada/tuned") == 6, codes
    found = [f"{name}: {leak}" for name, text in said.items() for leak in leaks(text)]
    found += [*leaks_in_files(place.folder), *sorted(processes.found)]
    num_looked = len(commands) + len(said) - 1
    outcome(
        fault="Tokens, keys and passwords of the environment (canaries) in files, output, logs and lists of processes",
        group="security", tries=num_looked, held=num_looked if not found else 0,
        note=f"every file and every output; {processes.num_looks} looks at all processes; the hub says the token back",
    )  # fmt: skip
    assert not found, found
    assert processes.num_looks > 5


@pytest.mark.parametrize("kind", ["RuntimeError", "whet.errors.StorageError", "whet.errors.RecipeError"])
def test_an_error_of_a_library_that_tells_the_token_does_not(workplace, kind, outcome):
    program = (
        "import os, whet.errors\nfrom whet.cli.main import leave_by_exit_code\n"
        f"def fail():\n    raise {kind}('GET http://ada:{PASSWORD}@hub/x with Bearer ' + os.environ['HF_TOKEN'])\n"
        "leave_by_exit_code(fail)\n"
    )
    workplace.environment |= CANARIES
    process = workplace.start(program=("-c", program))
    said, _ = process.communicate(timeout=120)
    held = process.returncode != 0 and "Bearer ***" in said and not leaks(said.replace(program, ""))
    if kind == "RuntimeError":
        held = held and "Traceback" in said
    outcome(
        fault="An unexpected error whose text holds a token", group="security", tries=1, held=int(held),
        note="shown as ***, traceback included",
    )  # fmt: skip
    assert held, said


def test_the_environment_of_a_run_is_an_allow_list(monkeypatch, outcome):
    """What a run records of its surroundings is named key by key: a new variable of the environment is not in it."""
    import torch

    from whet.train import preflight
    from whet.types import RunPlan

    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    plan = object.__new__(RunPlan)
    for name, value in {"num_threads": 1, "world_size": 1}.items():
        object.__setattr__(plan, name, value)
    recorded = preflight.environment(plan, torch.device("cpu"))
    held = not leaks(json.dumps(recorded, default=str)) and not leaks(str(sys.flags))
    outcome(fault="Variables of the environment in the run's manifest", group="security", tries=1, held=int(held))
    assert held
