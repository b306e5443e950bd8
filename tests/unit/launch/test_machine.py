"""Ranks follow from the GPUs that are there; a CPU gets as many as are asked for."""

from __future__ import annotations

import sys

import pytest

from whet.errors import RecipeError
from whet.launch.machine import choose_num_ranks, count_gpus, threads_per_rank


def test_every_gpu_gets_a_rank():
    num_ranks, why = choose_num_ranks(None, device="auto", num_gpus=4, num_cores=64)
    assert num_ranks == 4
    assert why == "4 ranks on 4 of 4 GPUs"


def test_more_ranks_than_gpus_are_refused_with_what_would_work():
    with pytest.raises(RecipeError, match=r"8 ranks are asked for, but torch sees 2 GPUs(.|\n)*--nproc 2"):
        choose_num_ranks(8, device="auto", num_gpus=2, num_cores=64)


def test_ranks_on_the_cpu_do_not_ask_for_gpus():
    num_ranks, why = choose_num_ranks(8, device="cpu", num_gpus=2, num_cores=16)
    assert num_ranks == 8
    assert why == "train.device is cpu: 8 ranks on the CPU with 2 threads each"


def test_a_machine_without_a_gpu_starts_one_rank_and_says_how_to_start_more():
    num_ranks, why = choose_num_ranks(None, device="auto", num_gpus=0, num_cores=2)
    assert num_ranks == 1
    assert (
        why == "this machine shows no GPU: one rank on the CPU with 2 threads each; --nproc 2 starts one for each core"
    )


def test_cuda_without_a_gpu_is_an_error_before_anything_starts():
    with pytest.raises(RecipeError, match="no GPU"):
        choose_num_ranks(None, device="cuda", num_gpus=0, num_cores=2)


@pytest.mark.parametrize(("num_ranks", "num_cores", "threads"), [(2, 8, 4), (3, 8, 2), (8, 2, 1)])
def test_cores_are_shared_among_ranks(num_ranks, num_cores, threads):
    assert threads_per_rank(num_ranks, num_cores) == threads


def test_without_a_driver_torch_is_not_even_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would raise
    assert count_gpus([str(tmp_path / "nvidiactl")]) == 0
    (tmp_path / "nvidiactl").touch()
    with pytest.raises(ImportError):
        count_gpus([str(tmp_path / "nvidiactl")])
