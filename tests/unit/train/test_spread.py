"""A whole rank goes on from what several wrote: weights, moments and counts of steps, out of blocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import build_training, make_plan, make_samples, run_steps, tiny_llama

from whet.checkpoint.blocks import Block
from whet.checkpoint.load import Checkpoint
from whet.checkpoint.sharded import Part, make_whole, write_part
from whet.errors import StorageError
from whet.optim.build import optimizer_tensors
from whet.parallel.mesh import Layout
from whet.recipe.schema import Optim
from whet.train.spread import load_moments, load_weights, split_state, spread_of

SAMPLES = make_samples([7, 4, 9, 5])


def training_after(steps, *, seed=0):
    plan = make_plan(len(SAMPLES), micro_batch=1, global_batch=2, total_steps=9)
    made = build_training(tiny_llama(torch.float32, seed=seed), SAMPLES, plan)
    run_steps(made, range(steps))
    return made


def saved_by_two(folder, training) -> Checkpoint:
    """The first rows of every tensor by one rank, the rest by another."""
    moments, numbers = split_state(training.optimizer, training.trainables.named)
    weights, reports = training.trainables.tensors(), []
    for rank in range(2):
        blocks = {}
        for kind, named in (("weights", weights), ("optimizer", moments)):
            blocks[kind] = {}
            for name, tensor in named.items():
                border = len(tensor) // 3
                rows = tensor.detach()[border:] if rank else tensor.detach()[:border]
                offsets = (border * rank, *(0 for _ in tensor.shape[1:]))
                blocks[kind][name] = Block(tensor=rows, offsets=offsets, shape=tuple(tensor.shape))
        part = Part(
            rank=rank, num_ranks=2, blocks=blocks, documents={}, files={},
            shapes={name: tuple(tensor.shape) for name, tensor in {**weights, **moments}.items()},
            tensors={} if rank else {"optimizer.safetensors": numbers},
        )  # fmt: skip
        reports.append(write_part(folder, step=2, part=part))
    return Checkpoint(folder=make_whole(folder, step=2, reports=reports), step=2)


def test_weights_and_moments_come_back_and_the_run_goes_on_to_the_same_bits(tmp_path):
    whole = training_after(2)
    checkpoint = saved_by_two(tmp_path, whole)
    other = training_after(1, seed=1)
    assert spread_of(other.trainables, Layout()) is None
    load_weights(other.trainables, checkpoint, None)
    load_moments(other.optimizer, other.trainables, checkpoint, None)
    expected = optimizer_tensors(whole.optimizer, whole.trainables.named)
    found = optimizer_tensors(other.optimizer, other.trainables.named)
    assert found.keys() == expected.keys() and len(found) == 3 * len(whole.trainables.named)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    first, second = run_steps(whole, [2, 3]), run_steps(other, [2, 3])
    assert [record.loss for record in first] == [record.loss for record in second]
    for name, parameter in whole.trainables.named.items():
        assert torch.equal(parameter, other.trainables.named[name])


def test_before_the_first_step_there_are_no_moments_and_none_are_made_up(tmp_path):
    checkpoint = saved_by_two(tmp_path, training_after(0))
    other = training_after(0)
    load_moments(other.optimizer, other.trainables, checkpoint, None)
    assert optimizer_tensors(other.optimizer, other.trainables.named) == {}


def test_another_model_is_refused(tmp_path):
    checkpoint = saved_by_two(tmp_path, training_after(1))
    other = training_after(0)
    named = {f"other.{name}": parameter for name, parameter in other.trainables.named.items()}
    with pytest.raises(StorageError, match="is not in the checkpoint"):
        load_weights(replace(other.trainables, named=named), checkpoint, None)


def test_moments_of_another_shape_than_their_weights_are_never_cut_like_them():
    plan = make_plan(len(SAMPLES), micro_batch=1, global_batch=2, total_steps=9)
    made = build_training(tiny_llama(torch.float32), SAMPLES, plan, optim=Optim(name="adamw_8bit", lr=1e-3))
    run_steps(made, [0])
    with pytest.raises(AssertionError):
        split_state(made.optimizer, made.trainables.named)
