"""An estimate decides as the run does, with nothing loaded; its parts add up, on one rank and on many."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import make_plan, tiny_llama

from whet.data.sampler import Order
from whet.errors import RecipeError
from whet.estimate.devices import DEVICES
from whet.estimate.scale import Rows, operations_per_token
from whet.estimate.time import Calibration
from whet.models.families import KNOWN, shape_from_config
from whet.optim.eight_bit import BLOCK
from whet.parallel.env import Env
from whet.parallel.mesh import Layout
from whet.recipe import parse_recipe
from whet.train import memory_plan
from whet.train.foresee import Target, WeightFiles, foresee
from whet.train.foreseen_rows import assume_rows
from whet.train.known_rows import rows_of
from whet.train.memory_job import EIGHT_BIT_BLOCK

LENGTHS = np.array([30, 200, 7, 64, 150, 90, 12, 41, 300, 5, 77, 18], dtype=np.int32)
TAUGHT = LENGTHS // 2
LLAMA = KNOWN["meta-llama/Llama-3.1-8B"]


def recipe(*overrides):
    text = "name: a\noutput: b\ndata: {train: [{source: r.jsonl}]}\nbatch: {global_size: 8}\n"
    return parse_recipe(text, "r.yaml", overrides)


def here(memory_bytes, num_ranks=1):
    return Target(name="here", device="cpu", num_ranks=num_ranks, compute_bytes=4, memory_bytes=memory_bytes)


def gpu(name="h100", num_ranks=1):
    device = DEVICES[name]
    return Target(
        name=name, device="cuda", num_ranks=num_ranks, compute_bytes=2, memory_bytes=device.memory_bytes, gpu=device
    )


def assumed(made, num_rows=4000):
    return assume_rows(made, num_rows=num_rows, mean_length=240, longest=1024, why="no row was read")


@pytest.mark.parametrize("free_bytes", [490_000_000, 500_000_000, 510_000_000, 10**9])
def test_samples_of_a_pass_and_recompute_are_those_that_the_run_decides(free_bytes, monkeypatch):
    made, model = recipe("train.threads=1"), tiny_llama(torch.float32)
    shape = shape_from_config(model.config.to_dict())
    foreseen = foresee(
        made, shape, rows_of(made, Order(LENGTHS, seed=3), TAUGHT, num_data_ranks=1), here(free_bytes)
    )  # fmt: skip
    held = (
        here(None).process_bytes + sum(weight.nbytes for weight in model.parameters()) + 4 * foreseen.job.num_trainable
    )
    monkeypatch.setattr(memory_plan, "_free_bytes", lambda _: max(0, free_bytes - held))
    monkeypatch.setattr(memory_plan, "_held_bytes", lambda _: held)
    monkeypatch.setattr(memory_plan, "peak_memory_bytes", lambda _: 0)
    monkeypatch.setattr(memory_plan, "_model_bytes", lambda _: held - here(None).process_bytes)
    plan = memory_plan.decide(
        made, replace(make_plan(12, micro_batch=1, global_batch=8), num_threads=1),
        loaded=SimpleNamespace(model=model, compute_dtype=torch.float32), order=Order(LENGTHS, seed=3),
        num_taught=TAUGHT, env=Env(), device=torch.device("cpu"), layout=Layout(), say=lambda _: None,
    )  # fmt: skip
    assert (foreseen.plan.micro_batch, foreseen.plan.recompute) == (plan.micro_batch, plan.recompute)
    assert foreseen.parts == plan.predicted_memory_parts


def test_blocks_of_8_bit_moments_are_those_of_the_optimizer():
    assert EIGHT_BIT_BLOCK == BLOCK


def test_all_weights_of_8b_are_cut_over_ranks_where_one_gpu_is_too_small_for_them():
    made = recipe("adapter.method=none", "optim.lr=1e-5")
    alone, eight = (foresee(made, LLAMA, assumed(made), gpu(num_ranks=n)) for n in (1, 8))
    assert (alone.shares.strategy, alone.fits) == ("replicate", False)
    assert (eight.shares.strategy, eight.shares.num_shards, eight.fits) == ("fsdp", 8, True)
    assert eight.parts["moments"] == pytest.approx(8 * LLAMA_WEIGHTS / 8, rel=1e-3)


LLAMA_WEIGHTS = 8_030_261_248


def test_an_adapter_is_copied_to_every_gpu_and_the_batch_is_cut_among_them():
    made = recipe()
    eight = foresee(made, LLAMA, assumed(made), gpu(num_ranks=8))
    assert (eight.shares.strategy, eight.shares.num_shards) == ("replicate", 1)
    assert (eight.plan.world_size, eight.plan.micro_batch * eight.plan.accumulation) == (8, 1)
    assert eight.tokens_per_step == 8 * 240 and eight.num_tokens == 4000 * 240


def test_rounded_weights_of_the_base_take_fewer_bytes():
    whole, rounded = (
        foresee(made, LLAMA, assumed(made), gpu()) for made in (recipe(), recipe("model.quantize=nf4"))
    )  # fmt: skip
    assert rounded.parts["weights"] < 0.45 * whole.parts["weights"]


def test_reading_a_file_in_another_format_may_hold_more_than_training():
    made, shape = recipe("batch.micro_size=1"), KNOWN["smollm2-135m-instruct"]
    target = replace(here(10**10), compute_bytes=2)
    rows = assume_rows(made, num_rows=100, mean_length=20, longest=20, why="no row was read")
    foreseen = foresee(made, shape, rows, target, WeightFiles(num_bytes=538_000_000, bytes_per_weight=4.0))
    assert foreseen.loading_bytes == here(None).process_bytes + 538_000_000 + 2 * 134_515_008
    assert foreseen.peak_bytes == foreseen.loading_bytes > foreseen.training_bytes
    same = foresee(made, shape, rows, target, WeightFiles(num_bytes=269_000_000, bytes_per_weight=2.0))
    assert same.loading_bytes == here(None).process_bytes + 269_000_000


def test_gradients_take_the_place_of_activations_where_a_step_is_one_pass():
    shape = KNOWN["smollm2-135m-instruct"]

    def gradients(micro):
        made = recipe("adapter.method=none", f"batch.micro_size={micro}", "optim.lr=1e-5")
        return foresee(made, shape, assumed(made), here(10**12)).parts["gradients"]

    assert gradients(8) < gradients(4) == 4 * 134_515_008


def test_time_is_a_range_by_the_data_sheet_and_one_number_where_it_was_measured():
    made = recipe("batch.micro_size=8")
    foreseen = foresee(made, LLAMA, assumed(made), gpu())
    least, most = foreseen.step_seconds()
    work = 8 * 240 * operations_per_token(
        foreseen.job, Rows(mean_length=240, taught_share=0.6, tokens_per_pass=1), foreseen.plan.recompute
    )  # fmt: skip
    assert (least, most) == (pytest.approx(work / (0.5 * 989e12)), pytest.approx(work / (0.25 * 989e12)))
    here_measured = Calibration(operations_per_second=work, pass_seconds=1.0, update_seconds=0.25, num_steps=3)
    assert foreseen.step_seconds(here_measured) == (pytest.approx(1.25), pytest.approx(1.25))
    assert foresee(made, LLAMA, assumed(made), here(10**12)).step_seconds() is None


def test_ranks_that_share_layers_hold_less_and_cannot_be_cut_unevenly():
    made = recipe("parallel.tensor=2")
    two = foresee(made, LLAMA, assumed(made), gpu(num_ranks=2))
    assert (two.shares.num_data_ranks, two.plan.world_size) == (1, 1)
    assert two.parts["weights"] < 0.55 * foresee(recipe(), LLAMA, assumed(recipe()), gpu()).parts["weights"]
    with pytest.raises(RecipeError, match="tensor groups of 2"):
        foresee(made, LLAMA, assumed(made), gpu(num_ranks=3))
