"""The torchrun command of one machine: pure, no process is started here."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whet.errors import RecipeError

DEFAULT_PORT = 29500
"""torchrun's and accelerate's, where several machines must agree on one without talking"""
RANK_PREFIX = "[rank "
"""what every line of a rank begins with; torchrun's own lines do not"""
STOP_SECONDS = 600
"""for ranks that were asked to stop, to finish their step and save; torchrun's own default is 30"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """All machines of a launch, seen from one of them."""

    num_nodes: str = "1"
    """a number, or `1:2`: at least one, at most two, joining and leaving as they come"""
    node_rank: int | None = None
    """number of this machine; it then is rank 0's if it is 0. None: torchrun orders them"""
    address: str | None = None
    """name or address of the machine where all meet"""
    port: int = DEFAULT_PORT

    @property
    def most(self) -> int:
        """The most machines that take part."""
        return int(self.num_nodes.rpartition(":")[2])


def check_machines(machines: Machines) -> None:
    """RecipeError when the machines could not find each other."""
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", machines.num_nodes):
        raise RecipeError(f"is a number or a range such as 1:2 (found {machines.num_nodes})", where="--nnodes")
    fewest, _, most = machines.num_nodes.rpartition(":")
    if fewest and int(fewest) > int(most):
        raise RecipeError(f"begins above its end (found {machines.num_nodes})", where="--nnodes")
    if machines.most == 1:
        if machines.node_rank or machines.address:
            raise RecipeError(
                "one machine needs no --node-rank and no --master-addr", where="--nnodes", mend="--nnodes 2"
            )
        return
    if machines.address is None:
        raise RecipeError(
            f"{machines.num_nodes} machines need to know where they meet",
            where="--nnodes",
            mend="--master-addr A, the address of the first machine, the same on all",
        )
    if machines.node_rank is not None and ":" in machines.num_nodes:
        raise RecipeError(
            "machines that come and go have no number", where="--node-rank", mend="leave it out, or fix --nnodes"
        )
    if machines.node_rank is not None and machines.node_rank >= machines.most:
        raise RecipeError(
            f"the numbers of {machines.most} machines end at {machines.most - 1} (found {machines.node_rank})",
            where="--node-rank",
        )


def torchrun_command(
    program: Sequence[str], machines: Machines, *, num_ranks: int, max_restarts: int, log_folder: str
) -> list[str]:
    """`python -m torch.distributed.run ... PROGRAM`, as a list: no shell ever reads it.

    `program` is what follows `python`: `-m whet train R`. Everything that ranks say reaches torchrun's own output with
    a prefix; `log_folder` is where it passes through.
    """
    return [
        sys.executable, "-m", "torch.distributed.run",
        "--nnodes", machines.num_nodes, "--nproc-per-node", str(num_ranks),
        *_meeting_point(machines),
        "--max-restarts", str(max_restarts), "--tee", "3", "--log-dir", log_folder,
        *program,
    ]  # fmt: skip


def _meeting_point(machines: Machines) -> list[str]:
    if machines.most == 1:
        # port 0: a free one, so that two runs on one machine never meet
        return ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--local-addr", "localhost"]
    if machines.node_rank is None:
        return ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{machines.address}:{machines.port}", "--rdzv-id", "whet"]
    # numbered machines keep rank 0, which writes the files, on the first; c10d would sort them by address
    return [
        "--node-rank", str(machines.node_rank),
        "--master-addr", str(machines.address), "--master-port", str(machines.port),
    ]  # fmt: skip


def torchrun_environment(variables: Mapping[str, str], *, num_threads: int) -> dict[str, str]:
    """`variables` with what ranks need; nothing that is set already is changed, and no NCCL setting is invented."""
    return {
        "OMP_NUM_THREADS": str(num_threads),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(STOP_SECONDS),
        "PYTHONSAFEPATH": "1",  # a file torch.py beside the recipe is no module
        **variables,
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": RANK_PREFIX + "${rank}] ",
    }
