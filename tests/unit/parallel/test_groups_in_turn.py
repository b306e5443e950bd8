"""Training and evaluation of one command are two process groups, one after the other."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

RANK = """
import os, sys, time
import torch
from whet.parallel import env as parallel_env
from whet.parallel.reduce import gather_texts

env = parallel_env.read_env()
for turn in range(3):
    if env.rank == 1 and turn:
        time.sleep(0.5)  # rank 0 asks where rank 1 is before rank 1 has said it anew
    parallel_env.start(env, torch.device("cpu"))
    assert gather_texts(f"{turn} {env.rank}") == [f"{turn} 0", f"{turn} 1"]
    parallel_env.stop()
"""


@pytest.mark.slow
def test_ranks_find_each_other_in_one_group_after_another(tmp_path: Path):
    script = tmp_path / "rank.py"
    script.write_text(RANK, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port))
    done = subprocess.run([sys.executable, *launcher, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
