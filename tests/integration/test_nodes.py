"""Two "nodes" of one machine: network namespaces joined by a cable, torchrun on each, and the cable is cut."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from whet.checkpoint.names import list_steps

pytestmark = pytest.mark.slow

ADDRESSES = ("10.99.7.1", "10.99.7.2")
TIMEOUT_SECONDS = 6
NUM_STEPS = 60
LAST_CALL_SECONDS = 3


def ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)


class Nodes:
    """Two namespaces; `wire0` of one is the other end of `wire1` of the other."""

    def __init__(self) -> None:
        self.names = tuple(f"whet{os.getpid()}n{number}" for number in range(2))

    def build(self) -> None:
        for name in self.names:
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            "wire0",
            "netns",
            self.names[0],
            "type",
            "veth",
            "peer",
            "name",
            "wire1",
            "netns",
            self.names[1],
        )
        for number, name in enumerate(self.names):
            ip("-n", name, "address", "add", f"{ADDRESSES[number]}/24", "dev", f"wire{number}")
            self.cable("up", number)
            ip("-n", name, "link", "set", "lo", "up")

    def cable(self, state: str, number: int = 1) -> None:
        ip("-n", self.names[number], "link", "set", f"wire{number}", state)

    def remove(self) -> None:
        for name in self.names:
            ip("netns", "delete", name, check=False)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the command ip")
    made = Nodes()
    try:
        made.build()
    except subprocess.CalledProcessError as error:
        made.remove()
        pytest.skip(f"network namespaces may not be made here: {error.stderr.strip()}")
    yield made
    made.remove()


def start(workplace, nodes: Nodes, *, port: int) -> list[subprocess.Popen[str]]:
    """The guide's command on both nodes, for one node or two: torchrun meets at node 0."""
    started = []
    for number, name in enumerate(nodes.names):
        inside = ("ip", "netns", "exec", name)
        launcher = (
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc-per-node", "1",
            "--rdzv-backend", "c10d", "--rdzv-id", "7", "--rdzv-endpoint", f"{ADDRESSES[0]}:{port}",
            "--local-addr", ADDRESSES[number], "--max-restarts", "2",
            # the name of this machine does not lead into the namespaces
            "--rdzv-conf", f"is_host={int(number == 0)},last_call_timeout={LAST_CALL_SECONDS}",
        )  # fmt: skip
        process = subprocess.Popen(
            [*inside, *launcher, "-m", "whet", "train", str(workplace.recipe), "--fresh"],
            env=workplace.environment | {"GLOO_SOCKET_IFNAME": f"wire{number}"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=workplace.folder,
        )  # fmt: skip
        started.append(process)
        workplace.started.append(process)
    return started


def status(workplace, rank: int) -> dict[str, Any]:
    return json.loads((workplace.folder / "run" / "ranks" / f"rank-{rank}.json").read_text(encoding="utf-8"))


@pytest.mark.long
def test_a_node_that_is_cut_off_is_named_ends_by_itself_and_the_other_one_finishes_alone(workplace, nodes):
    workplace.write_recipe(
        train={"epochs": 20, "max_steps": NUM_STEPS, "save_every": 5}, parallel={"timeout_seconds": TIMEOUT_SECONDS}
    )
    both = start(workplace, nodes, port=29611)
    deadline = time.monotonic() + 200
    # a cut before the first checkpoint stands would leave nothing to continue from
    while workplace.last_step() < 7 or not list_steps(workplace.folder / "run"):
        assert time.monotonic() < deadline and both[0].poll() is None, both[0].communicate()[0]
        time.sleep(0.001)
    nodes.cable("down")
    cut = time.monotonic()
    step = workplace.last_step()
    assert step < NUM_STEPS, "the cable was cut too late"
    assert status(workplace, 0)["world_size"] == status(workplace, 1)["world_size"] == 2
    # the rank beyond the cut ends too; its torchrun goes on looking for the other one
    while (ends := status(workplace, 1))["state"] == "running":
        assert time.monotonic() < cut + TIMEOUT_SECONDS + 20
        time.sleep(0.1)
    assert ends["exit_code"] == 7 and "rank 0 (host" in ends["error"], ends

    said, _ = both[0].communicate(timeout=200)
    assert both[0].returncode == 0, said
    assert re.search(r"error: rank 0: rank 1 \(host \S+, process \d+\) ", said), said
    assert "cut off from the network" in said, said
    assert "continuing after step" in said, said
    assert [line["step"] for line in workplace.steps()] == list(range(1, NUM_STEPS + 1))
    plan = json.loads((workplace.folder / "run" / "run_plan.json").read_text(encoding="utf-8"))
    assert (plan["world_size"], plan["global_batch"], plan["micro_batch"], plan["accumulation"]) == (1, 8, 4, 2)
    assert not list(workplace.folder.glob("run.old-*")), "--fresh counts for torchrun's first start alone"
