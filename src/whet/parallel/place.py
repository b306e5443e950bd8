"""Which process of how many this is: read once from the variables that torchrun, accelerate and Slurm set. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from whet.errors import RecipeError


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
