"""Which process of how many this is: read once from the variables that torchrun, accelerate and Slurm set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from whet.errors import PeerLostError, RecipeError

# torch's default of 30 minutes keeps seven GPUs idle half an hour because one rank died.
TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Env:
    """Place of this process among all ranks."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def read_env(variables: Mapping[str, str] | None = None) -> Env:
    """torchrun's and accelerate's RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE; else Slurm's; else one process."""
    v = os.environ if variables is None else variables
    try:
        if "RANK" in v and "WORLD_SIZE" in v:
            rank, world = int(v["RANK"]), int(v["WORLD_SIZE"])
            local_rank = int(v.get("LOCAL_RANK", rank))
            local_world = int(v.get("LOCAL_WORLD_SIZE", world))
        elif int(v.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in v and "MASTER_ADDR" in v:
            rank, world = int(v["SLURM_PROCID"]), int(v["SLURM_NTASKS"])
            local_rank = int(v.get("SLURM_LOCALID", "0"))
            local_world = int(v.get("SLURM_NTASKS_PER_NODE", "1"))
        else:
            return Env()
    except ValueError as error:
        raise RecipeError(f"a launcher variable is not a number ({error})", mend="launch with torchrun") from error
    if not 0 <= rank < world:
        raise RecipeError(f"RANK={rank} does not fit WORLD_SIZE={world}", mend="launch with torchrun")
    return Env(rank=rank, world_size=world, local_rank=local_rank, local_world_size=local_world)


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


def start(env: Env, device: torch.device) -> None:
    """Join the process group (gloo on CPUs, NCCL on GPUs); nothing to do for one process.

    A process may join several groups one after another, all ranks in the same order.
    """
    if env.world_size == 1 or dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=TIMEOUT_SECONDS)
    try:
        # under keys of its own: in those of an earlier group a rank may find where the others were then
        store = PrefixStore(f"whet/group_{next(_group_numbers)}", _meeting_point(env))
        dist.init_process_group(backend, store=store, rank=env.rank, world_size=env.world_size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise PeerLostError(
            f"rank {env.rank} of {env.world_size} could not join the others: {error}",
            mend="start all ranks together (torchrun) and check MASTER_ADDR and MASTER_PORT",
        ) from error


_group_numbers = count()


@cache
def _meeting_point(env: Env) -> Store:
    """The key-value store at MASTER_ADDR, which rank 0 or the launcher keeps open as long as the process lives."""
    timeout = timedelta(seconds=TIMEOUT_SECONDS)
    store, _, _ = next(rendezvous("env://", env.rank, env.world_size, timeout=timeout))
    return store


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
