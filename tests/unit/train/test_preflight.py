"""Threads of a rank: what was asked for, else its share of the physical cores; ranks that cannot share a step."""

from __future__ import annotations

import pytest
import torch

from whet.errors import RecipeError
from whet.parallel.env import Env
from whet.recipe.schema import Batch, Data, Parallel, Recipe, Source
from whet.train import preflight

CPU = torch.device("cpu")


@pytest.fixture
def cores(monkeypatch):
    """Four physical cores, threads noted instead of set."""
    set_to = []
    monkeypatch.setattr(preflight, "usable_cores", lambda: 4)
    monkeypatch.setattr(preflight, "say_if_busy", lambda num_cores: f"busy {num_cores}")
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return set_to


@pytest.mark.parametrize(("ranks", "threads"), [(1, 4), (2, 2), (3, 1), (8, 1)])
def test_ranks_share_the_cores(cores, ranks, threads):
    env = Env(world_size=ranks, local_world_size=ranks)
    assert preflight.set_threads(None, env, CPU, lambda _: None) == threads
    assert cores == [threads]


def test_what_was_asked_for_comes_first_then_the_environment(cores, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert preflight.set_threads(2, Env(), CPU, lambda _: None) == 2
    assert preflight.set_threads(None, Env(), CPU, lambda _: None) == 3


def test_only_threads_that_can_wait_for_each_other_are_warned_of(cores):
    said = []
    preflight.set_threads(1, Env(), CPU, said.append)
    assert said == []
    preflight.set_threads(2, Env(), CPU, said.append)
    assert said == ["busy 4"]


def recipe(global_size: int, tensor: int = 1, micro_size: int | str = "auto") -> Recipe:
    return Recipe(
        name="a", output="b", data=Data(train=(Source(source="rows.jsonl"),)), parallel=Parallel(tensor=tensor),
        batch=Batch(global_size=global_size, micro_size=micro_size),
    )  # fmt: skip


def test_ranks_that_cannot_share_a_step_are_refused_before_anything_is_read():
    preflight.refuse_uneven_ranks(recipe(8), Env(world_size=4))
    preflight.refuse_uneven_ranks(recipe(8, tensor=2), Env(world_size=16))  # eight groups see rows of their own
    with pytest.raises(RecipeError) as caught:
        preflight.refuse_uneven_ranks(recipe(8), Env(world_size=3))
    assert caught.value.mend == "batch.global_size=6 or 9, or a world size of 2 or 4"
    with pytest.raises(RecipeError, match="micro-batch 4 x world size 4"):
        preflight.refuse_uneven_ranks(recipe(8, micro_size=4), Env(world_size=4))
