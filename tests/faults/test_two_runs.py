"""Two runs in one folder: the second is refused, whatever the first one does; what a dead one left is taken over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked_runs import ForkedRuns
from workplace import Uninterrupted, Workplace

NUM_STARTS = 20
# waits at the door until the gate is closed, so that both reach for the lock as nearly at once as they can
RACER = """
import sys, pathlib
from whet.checkpoint.lock import locked
from whet.errors import StorageError
folder = pathlib.Path(sys.argv[1])
for line in sys.stdin:
    try:
        with locked(folder):
            print("won", flush=True)
            sys.stdin.readline()
    except StorageError as error:
        assert "another run is working in this folder" in str(error), error
        print("refused", flush=True)
        sys.stdin.readline()
    print("out", flush=True)
"""


def tell(process: subprocess.Popen[str], line: str = "go") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.timeout(600)
def test_of_two_starts_at_the_same_moment_one_wins(tmp_path: Path, outcome):
    command = [sys.executable, "-c", RACER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    try:
        held = 0
        for _ in range(NUM_STARTS):
            for racer in racers:
                tell(racer)
            said = sorted(hear(racer) for racer in racers)
            for racer in racers:
                tell(racer)
            assert [hear(racer) for racer in racers] == ["out", "out"]
            held += said == ["refused", "won"]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    outcome(
        fault="two runs started in one folder at the same moment",
        group="environment",
        tries=NUM_STARTS,
        held=held,
        note="one goes on, the other is refused (exit 5) and told by whom",
    )
    assert held == NUM_STARTS


@pytest.mark.fault
@pytest.mark.timeout(1500)
def test_a_stopped_owner_keeps_its_folder_and_a_killed_one_loses_it(
    workplace: Workplace, uninterrupted: Uninterrupted, forked: ForkedRuns, outcome
):
    """The owner holds the folder as a run does; it does nothing else, so that nothing has to be waited for."""
    run = uninterrupted.copy_to(workplace)
    first = workplace.start(str(run), program=("-c", RACER), stdin=subprocess.PIPE)
    tell(first)
    assert hear(first) == "won"
    first.send_signal(signal.SIGSTOP)
    second = forked.run("train", str(workplace.recipe), folder=workplace.folder, environment=workplace.environment)
    was_refused = second.code == 5 and f"another run is working in this folder (process {first.pid} on" in second.said
    fresh = forked.run(
        "train", str(workplace.recipe), "--fresh", folder=workplace.folder, environment=workplace.environment
    )  # fmt: skip
    was_refused = was_refused and fresh.code == 5 and not (workplace.folder / "run.old-1").exists()
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has asked after it
    assert json.loads((run / ".lock").read_text())["process"] == first.pid
    assert first.stdin is not None
    first.stdin.close()
    third = forked.run("train", str(workplace.recipe), folder=workplace.folder, environment=workplace.environment)
    was_taken_over = (
        third.code == 0
        and f"process {first.pid} on" in third.said
        and "ended without giving the folder back" in third.said
        and workplace.hashes() == uninterrupted.hashes
        and (run / ".lock").read_bytes() == b""
    )
    outcome(
        fault="a second run beside a stopped one (SIGSTOP), then after a killed one",
        group="environment",
        tries=2,
        held=was_refused + was_taken_over,
        lost="the steps since the last checkpoint of the killed one",
        note="refused while the owner lives, taken over when it is dead",
    )
    assert was_refused, second.said + fresh.said
    assert was_taken_over, third.said


@pytest.mark.fault
@pytest.mark.timeout(1500)
def test_a_claim_of_another_machine_is_refused_until_it_is_removed(
    workplace: Workplace, uninterrupted: Uninterrupted, forked: ForkedRuns, outcome
):
    run = uninterrupted.copy_to(workplace)
    claim = {"process": 71, "started": "5", "boot": "another", "host": "node7", "job": "", "since": "2026-01-01 10:00"}
    (run / ".lock").write_text(json.dumps(claim))
    refused = forked.run("train", str(workplace.recipe), folder=workplace.folder, environment=workplace.environment)
    was_told = refused.code == 5 and f"look on node7; if it is gone, remove {run / '.lock'}" in refused.said
    (run / ".lock").unlink()
    ended = forked.run("train", str(workplace.recipe), folder=workplace.folder, environment=workplace.environment)
    held = was_told and ended.code == 0 and workplace.hashes() == uninterrupted.hashes
    outcome(
        fault="a run folder claimed by another machine",
        group="environment",
        tries=1,
        held=int(held),
        note="refused with how to remove the claim",
    )
    assert held, refused.said + ended.said
