import pytest
import torch

from whet.errors import RecipeError
from whet.parallel.env import Env, choose_device, read_env, start, stop

SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
MASTER = {"MASTER_ADDR": "node-0"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Env()),
        (TORCHRUN, Env(rank=3, world_size=8, local_rank=1, local_world_size=2)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Env(rank=1, world_size=2, local_rank=1, local_world_size=2)),
        (SLURM | MASTER, Env(rank=3, world_size=4, local_rank=1, local_world_size=2)),
        # torchrun's word counts inside a Slurm job too
        (SLURM | MASTER | TORCHRUN, Env(rank=3, world_size=8, local_rank=1, local_world_size=2)),
        # an interactive Slurm shell: tasks, but nobody launched ranks
        (SLURM, Env()),
        (SLURM | MASTER | {"SLURM_NTASKS": "1"}, Env()),
    ],
)
def test_the_place_among_the_ranks_is_read_from_any_launcher(variables, expected):
    assert read_env(variables) == expected


@pytest.mark.parametrize("rank", ["x", "2", "-1"])
def test_variables_that_make_no_sense_are_refused(rank):
    with pytest.raises(RecipeError) as error:
        read_env({"RANK": rank, "WORLD_SIZE": "2"})
    assert error.value.mend == "launch with torchrun"


def test_the_first_rank_is_the_main_one():
    assert Env().is_main and not Env(rank=1, world_size=2).is_main


def test_auto_falls_back_to_the_cpu_and_cuda_does_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", Env()) == choose_device("cpu", Env()) == torch.device("cpu")
    with pytest.raises(RecipeError, match="no working CUDA device"):
        choose_device("cuda", Env())


def test_each_rank_takes_its_own_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    env = Env(rank=3, world_size=4, local_rank=1, local_world_size=2)
    assert choose_device("auto", env) == torch.device("cuda", 1) == taken[0]
    assert choose_device("cpu", env) == torch.device("cpu")


def test_one_process_needs_no_group():
    start(Env(), torch.device("cpu"))
    assert not torch.distributed.is_initialized()
    stop()
