"""Several processes over gloo on the loopback, started as a launcher would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def launch(script: Path, *arguments: str, num_ranks: int, timeout_seconds: float = 280) -> None:
    """`python script arguments...` on every rank; AssertionError with what a rank said where one fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {
        "WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    command = [sys.executable, str(script), *arguments]
    ranks = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for rank in range(num_ranks)
    ]
    ends = time.monotonic() + timeout_seconds
    try:
        outputs = [rank.communicate(timeout=max(0.1, ends - time.monotonic()))[0] for rank in ranks]
        _check([rank.returncode for rank in ranks], outputs)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
            assert rank.stdout is not None
            rank.stdout.close()


def _check(codes: Sequence[int], outputs: Sequence[bytes]) -> None:
    failed = [f"rank {rank}: {out.decode()[-4000:]}" for rank, out in enumerate(outputs) if codes[rank]]
    assert not failed, "\n".join(failed)
