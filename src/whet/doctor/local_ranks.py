"""The smoke test between ranks of this machine; `python -m whet.doctor.local_ranks` is one of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict

from whet.doctor.finding import Finding

_SECONDS = 180


def try_local_ranks(num_ranks: int) -> Finding:
    """Start `num_ranks` processes that meet, sum and time; a fault names the first one that failed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "whet.doctor.local_ranks"],
            env={**shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    try:
        ends = [(process.communicate(timeout=_SECONDS), process.returncode) for process in ranks]
    except subprocess.TimeoutExpired:
        return _fault(num_ranks, f"no answer within {_SECONDS} s")
    finally:
        for process in ranks:
            process.kill()
    for rank, ((_, said), code) in enumerate(ends):
        if code != 0:
            return _fault(num_ranks, f"rank {rank} ended with {code}: {said.strip() or 'no word'}")
    return Finding(check="smoke test", state="good", found=json.loads(ends[0][0][0])["sentence"])


def _fault(num_ranks: int, found: str) -> Finding:
    return Finding(
        check="smoke test",
        state="fault",
        found=f"{num_ranks} ranks of this machine: {found}",
        why="training with several ranks would end the same way",
        mend="see the findings above; NCCL_DEBUG=INFO says more",
    )


def main() -> None:
    """One rank."""
    import torch

    from whet.parallel import env as parallel_env
    from whet.parallel.place import read_env
    from whet.parallel.smoke import smoke_test

    env = read_env()
    has_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= env.world_size
    device = parallel_env.choose_device("cuda" if has_gpus else "cpu", env)
    parallel_env.start(env, device)
    try:
        smoke = smoke_test(device)
    finally:
        parallel_env.stop()
    if env.is_main and smoke is not None:
        sys.stdout.write(json.dumps(asdict(smoke) | {"sentence": f"{device.type}: {smoke.sentence}"}))


if __name__ == "__main__":
    main()
