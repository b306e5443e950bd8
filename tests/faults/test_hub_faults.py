"""Whatever the hub does: exit code 6 within half a minute, the cause named, no token told, and nothing half whole.

A child imports the libraries once and forks a process per case, so that all of them wait for their silent servers at
the same time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from loopback_hub import FAULTS, MODEL, SOUND, FaultyHub, serving

pytestmark = [
    pytest.mark.fault,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find_spec("datasets") is None, reason="needs whet[data]"),
]

TOKEN = "hf_CANARYcanaryCANARYcanary"
MOST_SECONDS = 45.0
"""30 s are promised; the rest is for a machine that is busy"""
SLOW = "file-slow"
SAYS = {
    "list-401": "the token from the environment variable HF_TOKEN is not valid (HTTP 401)",
    "list-403-gated": "is gated: its conditions have to be accepted first (HTTP 403)",
    "list-403": "the token from the environment variable HF_TOKEN may not read",
    "list-404": "on 127.0.0.1 (HTTP 404)",
    "list-429-retry-after": "too many requests)\n  mend: try again in 300 s",
    "list-429": "too many requests)\n  mend: try again in some minutes",
    "list-500": "is out of order (HTTP 500)",
    "list-503": "is out of order (HTTP 503)",
    "list-redirects": "sends from one address to the next and back again",
    "list-stalls": "is too slow: no complete answer",
    "list-trickles": "is too slow: no complete answer",
    "file-401": "the token from the environment variable HF_TOKEN is not valid (HTTP 401)",
    "file-403-gated": "is gated: its conditions have to be accepted first (HTTP 403)",
    "file-429-retry-after": "too many requests)",
    "file-500": "is out of order (HTTP 500)",
    "file-503": "is out of order (HTTP 503)",
    "file-redirects": "sends from one address to the next and back again",
    "file-stalls": "stopped sending",
    "file-truncated": "arrived incomplete",
    "file-damaged": "is damaged: its hash is",
}
PROGRAM = """
import hashlib, json, os, sys, time, urllib.request
import datasets, huggingface_hub
from whet.data.hub import open_hub_split
from whet.errors import WhetError
from whet.models.hub import fetch_snapshot

def fetch(repo, is_dataset):
    if is_dataset:
        return [row.value for row in open_hub_split(repo, split="train", config=None, revision=None).read()]
    folder = fetch_snapshot(repo).folder
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}

def tell(name, is_dataset, then_heal):
    started = time.monotonic()
    told = {"name": name, "is_dataset": is_dataset, "error": None, "code": 0}
    try:
        told["content"] = fetch("faulty/" + name, is_dataset)
    except WhetError as error:
        told |= {"error": str(error), "code": error.exit_code, "kind": type(error).__name__}
    told["seconds"] = time.monotonic() - started
    if then_heal and told["error"]:
        urllib.request.urlopen(os.environ["HF_ENDPOINT"] + f"/heal/{name}.{is_dataset}").close()
        for _ in range(3):  # a busy machine may be silent itself
            try:
                told["content"] = fetch("faulty/" + name, is_dataset)
                break
            except WhetError as error:
                told["again"] = str(error)
    return told

names, then_heal = sys.argv[1].split(","), sys.argv[2] == "heal"
def run_all(cases):
    children = []
    for name, is_dataset in cases:
        if (child := os.fork()) == 0:
            try:
                os.write(1, (json.dumps(tell(name, is_dataset, then_heal)) + "\\n").encode())
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)

cases = [(name, is_dataset) for name in names for is_dataset in (False, True)]
for start in range(0, len(cases), 14):
    run_all(cases[start : start + 14])
"""


def ask(names: list[str], home: Path, endpoint: str, *, then: str = "", **variables: str) -> tuple[list[dict], str]:
    """What became of each model and dataset, and everything that was printed beside."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "WHET_"))}
    environment = clean | {"HF_HOME": str(home), "HOME": str(home), "HF_ENDPOINT": endpoint} | variables
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(names), then], env=environment, capture_output=True, text=True,
        timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == 2 * len(names), done.stderr
    return told, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def patience(monkeypatch) -> None:
    monkeypatch.setattr("workplace.TIMEOUT_SECONDS", 600)


@pytest.fixture
def endpoint():
    FaultyHub.healed.clear()
    with serving(FaultyHub) as address:
        yield address


def content(is_dataset: bool) -> object:
    import hashlib

    if is_dataset:
        return [{"question": "2+2?", "answer": "4"}, {"question": "3+3?", "answer": "6"}]
    return {name: hashlib.sha256(body).hexdigest() for name, body in MODEL.items()}


def test_every_fault_of_the_hub_is_named_in_time_and_the_next_attempt_finds_nothing_half_whole(
    endpoint, tmp_path, outcome
):
    told, printed = ask(list(FAULTS), tmp_path, endpoint, then="heal", HF_TOKEN=TOKEN)
    assert TOKEN not in printed
    held = dict.fromkeys(FAULTS, 0)
    surprises = []
    for each in told:
        is_right = each.get("content") == content(each["is_dataset"])
        if each["name"] == SLOW:
            ended = each["error"] is None
        else:
            ended = each["code"] == 6 and SAYS[each["name"]] in each["error"] and each["seconds"] < MOST_SECONDS
        held[each["name"]] += is_right and ended
        if not (is_right and ended):
            surprises.append(each)
    for name, num_held in held.items():
        seconds = max(each["seconds"] for each in told if each["name"] == name)
        place, _, fault = name.partition("-")
        what = "waited for" if name == SLOW else "exit 6"
        outcome(
            fault=f"hub, {'list of files' if place == 'list' else 'a file'}: {fault.replace('-', ' ')}", group="hub",
            tries=2, held=num_held, note=f"a model and a dataset; {what} after {seconds:.0f} s at most",
        )  # fmt: skip
    assert not surprises, json.dumps(surprises, indent=1)


def test_without_a_token_a_refusal_asks_for_one(endpoint, tmp_path, outcome):
    names = ["list-401", "list-404", "list-403-gated"]
    told, _ = ask(names, tmp_path, endpoint)
    held = sum(each["code"] == 6 and "no token was sent" in each["error"] for each in told)
    outcome(fault="hub: no token for what needs one", group="hub", tries=len(told), held=held)
    assert held == len(told), told


def test_a_refused_connection_is_told_and_a_copy_in_the_cache_stands_in(endpoint, tmp_path, outcome):
    ask([SOUND], tmp_path, endpoint)
    told, _ = ask([SOUND, "list-404"], tmp_path, "http://127.0.0.1:9")
    (model,) = [each for each in told if each["name"] == SOUND and not each["is_dataset"]]
    others = [each for each in told if each is not model]
    held = model.get("content") == content(False)
    held += sum(each["code"] == 6 and "could not be reached" in each["error"] for each in others)
    outcome(
        fault="hub: connection refused", group="hub", tries=4, held=held, note="a model in the cache is used, and said"
    )
    assert held == 4, told


def test_offline_with_a_copy_nothing_is_asked_and_without_one_the_way_to_it_is_told(endpoint, tmp_path, outcome):
    ask([SOUND], tmp_path, endpoint)
    told, _ = ask([SOUND, "list-404"], tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    held = 0
    for each in told:
        if each["name"] == SOUND:
            held += each.get("content") == content(each["is_dataset"])
        else:
            held += each["code"] == 6 and "HF_HUB_OFFLINE is set" in each["error"] and "whet prepare" in each["error"]
    outcome(fault="hub: offline, with and without a copy in the cache", group="hub", tries=len(told), held=held)
    assert held == len(told), told


def test_a_wrong_token_ends_a_run_before_it_trains_and_is_never_printed(workplace, endpoint, outcome):
    workplace.environment |= {"HF_ENDPOINT": endpoint, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    workplace.write_recipe(model={"id": "faulty/list-401", "dtype": "float32"})
    said = workplace.train(expect=6)
    written = b"".join(path.read_bytes() for path in (workplace.folder / "run").rglob("*") if path.is_file())
    is_told = "the token from the environment variable HF_TOKEN is not valid" in said
    is_secret = TOKEN not in said and TOKEN.encode() not in written
    outcome(fault="hub: expired or wrong token", group="hub", tries=1, held=is_told and is_secret)
    assert is_told and is_secret, said
