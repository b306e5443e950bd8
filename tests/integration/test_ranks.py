"""A rank that dies or hangs: the others end with its name, and the same command, or torchrun's restart, goes on."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time

import pytest

pytestmark = pytest.mark.slow

# `python rank.py SIGNAL STEP train recipe.yaml`: rank 1 sends itself the signal in the forward pass of that step,
# in the first of torchrun's attempts; each rank notes when it ends
RANK = """
import atexit, os, pathlib, signal, sys, time
from whet.cli.main import main
from whet.train.loss import LossModel
number, step = getattr(signal, sys.argv.pop(1)), int(sys.argv.pop(1))
attempt, rank = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ["RANK"]
nll_sum, passes = LossModel.nll_sum, 0
def counting(self, batch):
    global passes
    passes += 1
    if rank == "1" and attempt == "0" and passes == step:
        time.sleep(1)  # so that all have heard of this step
        pathlib.Path("lost").touch()
        os.kill(os.getpid(), number)
    return nll_sum(self, batch)
LossModel.nll_sum = counting
atexit.register(lambda: pathlib.Path(f"end-{attempt}-{rank}").touch())
if __name__ == "__main__":
    main()
"""
NUM_STEPS = 4
# three whole steps of 8, and one row for the last: rank 1 has none
NUM_ROWS = 25
TIMEOUT_SECONDS = 5


@pytest.fixture
def two_ranks(workplace):
    """The workplace with a short recipe for two ranks, and the program above in it."""
    write_recipe(workplace)
    (workplace.folder / "rank.py").write_text(RANK, encoding="utf-8")
    workplace.environment["GLOO_SOCKET_IFNAME"] = "lo"
    return workplace


def write_recipe(workplace, **sections) -> None:
    workplace.write_recipe(
        data={"train": [{"source": str(workplace.rows), "rows": NUM_ROWS}]},
        train={"epochs": 1},
        parallel={"timeout_seconds": TIMEOUT_SECONDS},
        **sections,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def under_torchrun(workplace, *arguments: str, max_restarts: int = 0) -> tuple[int, str]:
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()))
    process = workplace.start(
        f"--max-restarts={max_restarts}", *arguments, "train", str(workplace.recipe), program=launcher
    )
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


def seconds_after_loss(workplace, name: str) -> float:
    return (workplace.folder / name).stat().st_mtime - (workplace.folder / "lost").stat().st_mtime


def test_a_rank_killed_in_a_step_is_named_within_ten_seconds_and_torchruns_restart_ends_as_if_nothing_had_been(
    two_ranks,
):
    place = two_ranks
    code, said = under_torchrun(place, "rank.py", "SIGKILL", "3", max_restarts=1)
    assert code == 0, said
    gone = re.search(
        r"rank 1 \(host \S+, process \d+\) is gone: it ended without a word in the forward pass of step 3", said
    )
    assert gone, said
    assert seconds_after_loss(place, "end-0-0") < 10
    assert place.last_step() == NUM_STEPS
    assert "all-reduce over 2 ranks: " in said and "continuing after step 2 of 4" in said
    statuses = [json.loads((place.folder / "run" / "ranks" / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert [(each["state"], each["exit_code"], each["step"]) for each in statuses] == [("finished", 0, NUM_STEPS)] * 2
    log = (place.folder / "run" / "ranks" / "rank-0.log").read_text()
    assert "is gone: it ended without a word" in log and "Thread" in log, "stacks of this rank's threads"
    assert "rank 1 of 2" in (place.folder / "run" / "ranks" / "rank-1.log").read_text()
    facts = json.loads((place.folder / "run" / "environment.json").read_text())["all_reduce"]
    assert facts["num_ranks"] == 2 and 0 < facts["small_seconds"] < facts["large_seconds"] < 10

    write_recipe(place, output=str(place.folder / "whole"))
    code, said = under_torchrun(place, "-m", "whet")
    assert code == 0, said
    assert place.trajectory() == place.trajectory("whole")
    assert place.hashes() == place.hashes("whole")


def by_hand(workplace, *arguments: str) -> list[subprocess.Popen[str]]:
    workplace.environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = []
    for rank in range(2):
        workplace.environment["RANK"] = str(rank)
        started.append(workplace.start(*arguments, "train", str(workplace.recipe), program=("rank.py",)))
    return started


def test_a_stopped_rank_ends_the_others_at_the_timeout_with_who_waits_for_whom(two_ranks):
    place = two_ranks
    first, second = by_hand(place, "SIGSTOP", "2")
    said, _ = first.communicate(timeout=240)
    waited = time.time() - (place.folder / "lost").stat().st_mtime
    assert first.returncode == 7, said
    assert TIMEOUT_SECONDS - 1 <= waited < TIMEOUT_SECONDS + 10
    found = re.search(
        rf"error: rank 0: rank 1 \(host \S+, process {second.pid}\) has not entered the gradient all-reduce of step 2; "
        r"its last sign of life was (\d+) s ago, in (the forward pass|data loading|the work) of step 2; "
        r"rank 0 waits in the gradient all-reduce of step 2",
        said,
    )
    assert found, said
    assert TIMEOUT_SECONDS - 2 <= int(found[1]) <= TIMEOUT_SECONDS + 4
    assert "give the same command again" in said
    status = json.loads((place.folder / "run" / "ranks" / "rank-0.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 7) and "rank 1" in status["error"]
    second.send_signal(signal.SIGCONT)
    second.communicate(timeout=60)
    assert second.returncode != 0, "the rank that was stopped finds itself alone"
