"""One run on a cluster as plain data: every scheduler is told the same things, each in its own words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from whet.errors import RecipeError
from whet.launch.torchrun import DEFAULT_PORT

_MAX_NAME = 52
"""Kubernetes gives pods 63 letters and appends a number and five letters of its own"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What runs, where and with what at hand."""

    name: str
    """small letters, digits and hyphens, as schedulers, hosts and containers take it"""
    recipe: str
    """as typed; a relative path begins in `workdir`"""
    overrides: tuple[str, ...] = ()
    output: str = "runs/run"
    """the recipe's run folder"""
    workdir: str
    """folder that all machines see under this name; recipe, rows and run folder are found from here"""
    num_nodes: int = 1
    gpus_per_node: int = 8
    """0: ranks on the CPU, one for each node"""
    max_restarts: int = 0
    python: str = "python"
    """interpreter of the environment or image that whet is installed in"""
    image: str | None = None
    mounts: tuple[str, ...] = ()
    """SOURCE:TARGET, beside `workdir`"""
    env_names: tuple[str, ...] = ("HF_TOKEN",)
    """variables that are handed over by name; their values stand in no file and on no command line"""

    @property
    def num_ranks_per_node(self) -> int:
        return max(1, self.gpus_per_node)


def check_job(job: Job) -> None:
    """RecipeError for what a scheduler would only complain about when the job starts."""
    for name in job.env_names:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise RecipeError(
                "takes the name of a variable, never a value: what is typed here is seen by everyone on the machine",
                where="--env",
                mend=f"export {name.partition('=')[0]}=... and pass --env {name.partition('=')[0]}",
            )
    for mount in job.mounts:
        source, colon, target = mount.partition(":")
        if not colon or not source or not target.startswith("/"):
            raise RecipeError(f"is SOURCE:TARGET with an absolute TARGET (found {mount})", where="--mount")
    if not job.workdir.startswith("/"):
        raise RecipeError(f"is an absolute path (found {job.workdir})", where="--workdir")


def scheduler_name(text: str) -> str:
    """`text` in small letters, digits and hyphens: `GSM8K, run 2` becomes `gsm8k-run-2`."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_MAX_NAME].strip("-")
    return name if name[:1].isalpha() else f"whet-{name}".strip("-")


def node_command(
    job: Job, *, node_rank: str = "0", address: str = "localhost", port: str = str(DEFAULT_PORT)
) -> list[str]:
    """What each machine runs: `whet launch local` with its place among all; the words may be variables ($NAME)."""
    place = ["--nnodes", str(job.num_nodes), "--node-rank", node_rank, "--master-addr", address, "--master-port", port]
    return [
        job.python, "-m", "whet", "launch", "local", job.recipe, *job.overrides,
        "--nproc", str(job.num_ranks_per_node),
        *(place if job.num_nodes > 1 else []),
        *(["--max-restarts", str(job.max_restarts)] if job.max_restarts else []),
    ]  # fmt: skip


def shell_line(words: Sequence[str]) -> str:
    """`words` as one line of a shell script; a word that is a variable's name ($NAME) stays one, in quotes."""
    return " ".join(f'"{word}"' if re.fullmatch(r"\$[A-Za-z_]\w*", word) else shlex.quote(word) for word in words)
