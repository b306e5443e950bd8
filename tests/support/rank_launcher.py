"""Several processes over gloo on the loopback, started as a launcher would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple


class End(NamedTuple):
    """How a rank ended."""

    exit_code: int
    said: str


def launch(script: Path, *arguments: str, num_ranks: int, timeout_seconds: float = 280) -> None:
    """`python script arguments...` on every rank; AssertionError with what a rank said where one fails."""
    ends = run_ranks(script, *arguments, num_ranks=num_ranks, timeout_seconds=timeout_seconds)
    failed = [f"rank {rank}: {end.said[-4000:]}" for rank, end in enumerate(ends) if end.exit_code]
    assert not failed, "\n".join(failed)


def run_ranks(script: Path, *arguments: str, num_ranks: int, timeout_seconds: float) -> list[End]:
    """`python script arguments...` on every rank, to the end of all of them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {
        "WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    command = [sys.executable, str(script), *arguments]
    ranks = [
        subprocess.Popen(
            command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(num_ranks)
    ]  # fmt: skip
    deadline = time.monotonic() + timeout_seconds
    try:
        said = [rank.communicate(timeout=max(0.1, deadline - time.monotonic()))[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
            assert rank.stdout is not None
            rank.stdout.close()
    return [End(rank.returncode, each) for rank, each in zip(ranks, said, strict=True)]
