"""The plan takes samples of a pass and recompute from the free memory, once; a continued run keeps them."""

from __future__ import annotations

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import make_plan, tiny_llama

from whet.data.sampler import Order
from whet.errors import RecipeError
from whet.estimate.memory import kept_probabilities
from whet.parallel.env import Env
from whet.parallel.mesh import Layout
from whet.recipe import parse_recipe
from whet.train import memory_plan, preflight

LENGTHS = np.array([30, 200, 7, 64, 150, 90, 12, 41, 300, 5, 77, 18], dtype=np.int32)
TAUGHT = LENGTHS // 2


def recipe(*overrides):
    text = "name: a\noutput: b\ndata: {train: [{source: r.jsonl}]}\nbatch: {global_size: 4}\n"
    return parse_recipe(text, "r.yaml", overrides)


def order():
    return Order(LENGTHS, seed=3)


@pytest.fixture
def machine(monkeypatch):
    """A function that gives this process so much free memory and nothing held besides the model."""

    def give(free_bytes):
        monkeypatch.setattr(memory_plan, "_free_bytes", lambda _: free_bytes)
        monkeypatch.setattr(memory_plan, "_held_bytes", lambda _: 0)
        monkeypatch.setattr(memory_plan, "peak_memory_bytes", lambda _: 0)

    return give


ALONE = Layout()


def decide(made, *, world_size=1, local_world_size=1, num_threads=1, said=None, layout=ALONE):
    plan = make_plan(len(LENGTHS), micro_batch=1, global_batch=4, world_size=world_size)
    plan = replace(plan, num_threads=num_threads)
    model = tiny_llama(torch.float32)
    return memory_plan.decide(
        made, plan, loaded=SimpleNamespace(model=model, compute_dtype=torch.float32), order=order(), num_taught=TAUGHT,
        env=Env(world_size=world_size, local_world_size=local_world_size), device=torch.device("cpu"),
        layout=layout, say=(said if said is not None else []).append,
    )  # fmt: skip


def test_with_room_a_step_is_one_pass_and_the_prediction_is_told(machine):
    machine(10**12)
    said = []
    plan = decide(recipe(), said=said)
    assert (plan.micro_batch, plan.accumulation, plan.recompute) == (4, 1, "none")
    assert plan.predicted_memory_bytes and said[0].startswith("memory: predicts ")
    assert plan.global_batch == plan.micro_batch * plan.accumulation * plan.world_size


def test_with_less_room_a_step_is_cut_and_recomputed(machine):
    machine(10**12)
    roomy = decide(recipe())
    seen = []
    for share in (0.9, 0.6, 0.3, 0.01):
        machine(int(share * roomy.predicted_memory_bytes))
        plan = decide(recipe())
        assert plan.micro_batch * plan.accumulation == 4
        seen.append(plan.predicted_memory_bytes)
    assert seen == sorted(seen, reverse=True) and seen[-1] < roomy.predicted_memory_bytes
    assert plan.micro_batch < 4 and plan.recompute == "full"


def test_what_fits_at_a_time_is_halved_where_a_cpu_has_two_threads_and_an_adapter_trains(machine):
    machine(10**12)
    said = []
    plan = decide(recipe(), said=said, num_threads=2)
    assert (plan.num_lanes, plan.micro_batch, plan.accumulation) == (2, 2, 2)
    assert "4 samples (up to" in said[0] and "tokens) at a time in 2 passes" in said[0]
    assert decide(recipe("adapter.method=none"), num_threads=2).num_lanes == 1
    assert decide(recipe("batch.micro_size=2"), num_threads=2).num_lanes == 1
    assert decide(recipe(), num_threads=1).num_lanes == 1


def test_ranks_that_share_a_machine_share_its_memory(machine):
    machine(10**12)
    needed = decide(recipe(), world_size=2).predicted_memory_bytes
    machine(int(1.5 * needed / 0.8))
    apart, together = (decide(recipe(), world_size=2, local_world_size=n) for n in (1, 2))
    assert apart.predicted_memory_bytes == needed
    assert together.predicted_memory_bytes <= 0.75 * needed


def test_what_the_recipe_fixes_stays(machine):
    machine(1)
    plan = decide(recipe("batch.micro_size=1", "train.recompute=norms"))
    assert (plan.micro_batch, plan.recompute) == (1, "norms")
    machine(10**12)
    assert decide(recipe("train.recompute=mlp")).recompute == "mlp"
    assert decide(recipe("train.memory_gb=0.000001")).recompute == "full"


def test_where_nothing_is_known_nothing_is_predicted(machine):
    machine(None)
    plan = decide(recipe("train.recompute=full"))
    assert (plan.micro_batch, plan.recompute, plan.predicted_memory_bytes) == (1, "full", None)
    assert decide(recipe()).recompute == "none"


def test_what_the_gpus_allocator_keeps_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 30)
    assert memory_plan._free_bytes(torch.device("cuda")) == 100 + 70 - 30
    assert memory_plan._held_bytes(torch.device("cuda")) == 30


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_the_largest_pass_is_the_largest_of_the_epoch(micro):
    plan = make_plan(len(LENGTHS), micro_batch=micro, global_batch=4)
    passes = [p for step in range(plan.steps_per_epoch) for p in order().step(plan, step).passes]
    largest = memory_plan.largest_pass(order(), plan, TAUGHT)
    assert largest.tokens == max(LENGTHS[p].sum() for p in passes)
    assert largest.taught == max(TAUGHT[p].sum() for p in passes)
    assert largest.probabilities == max(sum(kept_probabilities(int(n)) for n in LENGTHS[p]) for p in passes)


def test_a_shared_prefix_is_counted_once_a_pass():
    plan = make_plan(len(LENGTHS), micro_batch=4, global_batch=4)
    sharing = Order(LENGTHS, seed=3, shared_prefix=4)
    whole, saved = (memory_plan.largest_pass(sharing, replace(plan, share_prefix=on), TAUGHT) for on in (False, True))
    passes = [p for step in range(plan.steps_per_epoch) for p in sharing.step(plan, step).passes]
    assert whole == memory_plan.largest_pass(order(), plan, TAUGHT)
    assert saved.tokens == max(LENGTHS[p].sum() - 3 * 4 for p in passes)
    assert saved.taught == whole.taught and saved.probabilities < whole.probabilities


def test_where_every_pass_is_one_sample_nothing_is_shared():
    plan = make_plan(len(LENGTHS), micro_batch=1, global_batch=4)
    sharing = Order(LENGTHS, seed=3, shared_prefix=4)
    assert memory_plan.largest_pass(sharing, replace(plan, share_prefix=True), TAUGHT).tokens == LENGTHS.max()


def saved_plan(**changes):
    plan = make_plan(len(LENGTHS), micro_batch=2, global_batch=4)
    return asdict(replace(plan, recompute="mlp", predicted_memory_bytes=123, **changes))


def continue_with(*overrides, world_size=1, saved=None):
    now = make_plan(len(LENGTHS), micro_batch=1, global_batch=4, world_size=world_size)
    return preflight.continued_plan(recipe(*overrides), now, saved or saved_plan())


@pytest.mark.parametrize("shares", [True, False])
def test_a_continued_run_shares_prefixes_as_it_began(shares):
    assert continue_with(saved=saved_plan(share_prefix=shares)).share_prefix is shares


def test_a_continued_run_keeps_what_was_decided():
    plan = continue_with()
    assert (plan.micro_batch, plan.accumulation, plan.recompute) == (2, 2, "mlp")
    assert plan.predicted_memory_bytes == 123


def test_what_the_recipe_says_now_is_done():
    plan = continue_with("batch.micro_size=1", "train.recompute=full")
    assert (plan.micro_batch, plan.accumulation, plan.recompute) == (1, 4, "full")


@pytest.mark.parametrize(("world_size", "expected"), [(1, (2, 2)), (2, (2, 1)), (4, (1, 1))])
def test_other_ranks_cut_the_same_step_anew(world_size, expected):
    plan = continue_with(world_size=world_size)
    assert (plan.micro_batch, plan.accumulation, plan.world_size) == (*expected, world_size)


def test_ranks_that_cannot_share_a_step_are_told():
    with pytest.raises(RecipeError, match="cannot be cut"):
        continue_with(world_size=3)


def test_a_plan_of_an_earlier_version_is_continued():
    new = ("recompute", "predicted_memory_bytes", "longest_matmul_document", "loss_head", "is_compiled")
    plan = continue_with(saved={k: v for k, v in saved_plan().items() if k not in new})
    assert (plan.micro_batch, plan.recompute, plan.predicted_memory_bytes) == (2, "none", None)
