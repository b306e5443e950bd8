"""Targets of the fuzzer: what lies in a run folder, and what comes over connections."""

from __future__ import annotations

import socket
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from fuzz_inputs import parts_of
from fuzz_targets import Parser


def manifest(scratch: Path) -> Parser:
    from whet.checkpoint.manifest import NAME, verify

    (scratch / "weights.safetensors").write_bytes(b"whet")

    def parse(data: bytes) -> None:
        (scratch / NAME).write_bytes(data)
        verify(scratch)

    return parse


def trainer_state(scratch: Path) -> Parser:
    from whet.checkpoint.load import Checkpoint
    from whet.train.saved_documents import read_plan, read_state

    def parse(data: bytes) -> None:
        checkpoint = Checkpoint(folder=scratch, step=4)
        for name, part in zip(("trainer_state.json", "run_plan.json"), parts_of(data, 2), strict=True):
            (scratch / name).write_bytes(part)
        try:
            read_state(checkpoint)
        finally:
            read_plan(checkpoint)

    return parse


def folder_names(scratch: Path) -> Parser:
    from whet.checkpoint.names import list_steps
    from whet.report.run_list import describe_run, find_leftovers, find_runs

    (scratch / "recipe.yaml").write_text("version: 1\n", encoding="utf-8")
    (scratch / "metrics.jsonl").write_bytes(b"")
    (scratch / "summary.json").write_bytes(b'{"status": "finished"}')

    def parse(data: bytes) -> None:
        made = []
        for name in data.replace(b"/", b"").replace(b"\0", b"").split(b"\n")[:8]:
            path = scratch / f"checkpoint-{name.decode('utf-8', 'surrogateescape')}"
            with suppress(OSError):  # a name that the disk does not take
                path.mkdir()
                made.append(path)
        try:
            steps = list_steps(scratch)
            assert steps == sorted(set(steps), reverse=True), "one step of two folders"
            find_leftovers(scratch, checkpoints=True, old_runs=True)
            describe_run(scratch, is_held=False)
            find_runs(scratch)
        finally:
            for path in made:
                path.rmdir()

    return parse


_RUN_FILES = (
    "recipe.yaml", "metrics.jsonl", "summary.json", "run_plan.json", "data.json", "ledger.json",
    "evaluations/sums/base.jsonl", "evaluations/sums/tuned.jsonl", "evaluations/sums/base.summary.json",
    "evaluations/sums/tuned.summary.json", "evaluations/sums/comparison.json", "evaluations/bench/results.json",
)  # fmt: skip


def run_folder(scratch: Path) -> Parser:
    from whet.report.html import render
    from whet.report.run_diff import find_differences, side_of_run
    from whet.report.run_folder import read_run_folder
    from whet.report.run_list import describe_run

    run = scratch / "run"
    for name in _RUN_FILES:
        (run / name).parent.mkdir(parents=True, exist_ok=True)

    def parse(data: bytes) -> None:
        for name, part in zip(_RUN_FILES, parts_of(data, len(_RUN_FILES)), strict=True):
            (run / name).write_bytes(part)
        page = render(read_run_folder(run))
        assert "<script" not in page.lower(), "text of a run became a script"
        page.encode()
        describe_run(run, is_held=False)
        side = side_of_run(run)
        find_differences(side, side)

    return parse


def metrics(scratch: Path) -> Parser:
    import json

    from whet.tracking.jsonl import FILE_NAME, JsonlTracker
    from whet.tracking.protocol import TrackedRun
    from whet.train.finish import read_totals

    run = TrackedRun(name="fuzz", folder=scratch, resume_step=2)

    def parse(data: bytes) -> None:
        path = scratch / FILE_NAME
        path.write_bytes(data)
        tracker = JsonlTracker()
        tracker.start(run)
        tracker.close()
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert all(line["step"] <= 2 for line in lines), "a later step stayed"
        read_totals(path)

    return parse


def rank_status(scratch: Path) -> Parser:
    from whet.launch.outcome import outcome_of
    from whet.parallel.status import FOLDER, read_statuses, status_path

    (scratch / FOLDER).mkdir()

    def parse(data: bytes) -> None:
        for rank, part in enumerate(parts_of(data, 2)):
            status_path(scratch, rank).write_bytes(part)
        ends = read_statuses(scratch)
        outcome_of(1, ends, was_asked_to_stop=False)

    return parse


def wire(scratch: Path) -> Parser:
    from whet.parallel.wire import Wire

    def parse(data: bytes) -> None:
        here, there = socket.socketpair()
        end = Wire(here)
        try:
            for start in range(0, len(data), 8192):
                there.sendall(data[start : start + 8192])
                end.receive()
        finally:
            end.close()
            there.close()

    return parse


def request(scratch: Path) -> Parser:
    import asyncio
    import os

    from whet.inference.serve_guard import MODELS, Guard

    os.environ[MODELS] = "tiny"
    said: list[Any] = []

    async def server_behind(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def send(message: Any) -> None:
        said.append(message)

    guard = Guard(server_behind)
    loop = asyncio.new_event_loop()

    def parse(data: bytes) -> None:
        head, body = parts_of(data, 2)
        method, _, rest = head.partition(b" ")
        path, *lines = rest.split(b"\n")
        headers = [tuple(line.split(b": ", 1)) for line in lines if b": " in line]
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return messages.pop() if messages else {"type": "http.disconnect"}

        scope = {
            "type": "http", "method": method.decode("latin-1"), "path": path.decode("latin-1"), "headers": headers,
        }  # fmt: skip
        said.clear()
        loop.run_until_complete(guard(scope, receive, send))

    weakref.finalize(parse, loop.close)
    return parse
