"""How many ranks this machine carries: one for each GPU that torch sees; on a CPU as many as are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from whet.errors import RecipeError

_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""what the drivers of NVIDIA, AMD and of NVIDIA inside WSL leave behind"""


def count_gpus(drivers: Iterable[str] = _DRIVERS) -> int:
    """GPUs that ranks on this machine may use (CUDA_VISIBLE_DEVICES counts).

    torch is asked, because the ranks will ask it too; without a driver it is not even imported.
    """
    if not any(Path(driver).exists() for driver in drivers):
        return 0
    import torch

    return torch.cuda.device_count()


def choose_num_ranks(asked: int | None, *, device: str, num_gpus: int, num_cores: int) -> tuple[int, str]:
    """(ranks on this machine, a sentence on why so many). `device` is the recipe's `train.device`.

    RecipeError when more ranks are asked for than there are GPUs, or CUDA without one.
    """
    if device == "cuda" and num_gpus == 0:
        raise RecipeError(
            "train.device is cuda, but this machine shows no GPU",
            mend="train.device=cpu, or check the driver with nvidia-smi and CUDA_VISIBLE_DEVICES",
        )
    if device == "cpu" or num_gpus == 0:
        why = "train.device is cpu" if device == "cpu" else "this machine shows no GPU"
        num_ranks = asked or 1
        threads = threads_per_rank(num_ranks, num_cores)
        hint = "" if asked or num_cores == 1 else f"; --nproc {num_cores} starts one for each core"
        return num_ranks, f"{why}: {_ranks(num_ranks)} on the CPU with {_threads(threads)} each{hint}"
    if asked is not None and asked > num_gpus:
        raise RecipeError(
            f"{asked} ranks are asked for, but torch sees {num_gpus} GPU{'s' * (num_gpus > 1)} on this machine",
            where="--nproc",
            mend=f"--nproc {num_gpus}, or check CUDA_VISIBLE_DEVICES; train.device=cpu needs no GPU",
        )
    num_ranks = asked or num_gpus
    return num_ranks, f"{_ranks(num_ranks)} on {num_ranks} of {num_gpus} GPU{'s' * (num_gpus > 1)}"


def threads_per_rank(num_ranks: int, num_cores: int) -> int:
    """The cores of this machine, shared among its ranks."""
    return max(1, num_cores // num_ranks)


def _ranks(number: int) -> str:
    return "one rank" if number == 1 else f"{number} ranks"


def _threads(number: int) -> str:
    return "one thread" if number == 1 else f"{number} threads"
