"""The device of this process, and joining and leaving the other ranks."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from whet.errors import PeerLostError, RecipeError
from whet.parallel import flight_recorder, patience, watch
from whet.parallel.joining import join
from whet.parallel.place import Env, read_env

__all__ = ["TIMEOUT_SECONDS", "Env", "choose_device", "limit_waits", "read_env", "start", "stop"]

# torch's default of 30 minutes keeps seven GPUs idle half an hour because one rank died.
TIMEOUT_SECONDS = 120
_WATCH_SECONDS = 20


def choose_device(requested: str, env: Env) -> torch.device:
    """`auto` is this rank's GPU where CUDA works, else the CPU; asking for `cuda` without one is an error."""
    if requested == "cpu" or (requested == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RecipeError(
            "train.device is cuda, but torch finds no working CUDA device",
            mend="train.device=cpu, or check the driver with nvidia-smi",
        )
    device = torch.device("cuda", env.local_rank)
    torch.cuda.set_device(device)
    return device


def start(
    env: Env, device: torch.device, *, timeout_seconds: float = TIMEOUT_SECONDS, folder: Path | None = None
) -> None:  # fmt: skip
    """Join the process group (gloo on CPUs, NCCL on GPUs) and the watch of ranks; nothing to do for one process.

    A process may join several groups one after another, all ranks in the same order. A rank that does not answer for
    `timeout_seconds` ends the others; what is known of it then is written into the run folder `folder`.
    """
    if env.world_size == 1 or dist.is_initialized():
        return
    store = join(rank=env.rank, num_ranks=env.world_size, timeout_seconds=timeout_seconds, folder=folder)
    backend, seconds = "gloo", timeout_seconds
    if device.type == "cuda":
        # NCCL ends the process without a word: the watch comes first
        backend, seconds = "nccl", timeout_seconds + _WATCH_SECONDS
        flight_recorder.switch_on()
    try:
        dist.init_process_group(
            backend, store=store, rank=env.rank, world_size=env.world_size, timeout=timedelta(seconds=seconds)
        )
        patience.form()
    except (RuntimeError, ValueError) as error:
        lost = PeerLostError(
            f"rank {env.rank} of {env.world_size} met the others, but no connection came about: {error}",
            mend="see `whet doctor --dist`: GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME may name the wrong interface",
        )
        watch.end(lost)
        raise lost from error


def stop() -> None:
    """Leave the process group and the watch; called while an error ends this rank, it tells the others which."""
    error = sys.exc_info()[1]
    patience.dissolve()
    try:
        if dist.is_initialized():
            dist.destroy_process_group()
    finally:
        watch.end(error)


def limit_waits(groups: Iterable[dist.ProcessGroup], *, timeout_seconds: float) -> None:
    """Give groups that were made later the same timeout; torch's own is 30 minutes, with NCCL 10."""
    for group in groups:
        more = _WATCH_SECONDS if dist.get_backend(group) == "nccl" else 0
        group.set_timeout(timedelta(seconds=timeout_seconds + more))
