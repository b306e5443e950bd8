"""Law: the validation loss is summed nll / taught tokens, whatever the batch, and has no dropout in it."""

import dataclasses

import pytest
import torch
from tiny import LORA, build_training, make_plan, make_samples, run_steps, summed_nll, tiny_llama

from whet.parallel.mesh import Layout
from whet.recipe.schema import Adapter
from whet.train.held_out import evaluate_loss

LENGTHS = [17, 9, 30, 5, 12, 8, 40]
"""Taught tokens per batch differ widely, so that a mean of batch means would be another number."""


def _training(micro_batch, *, adapter=LORA, dtype=torch.float64):
    samples = make_samples(LENGTHS, seed=3)
    plan = make_plan(4, micro_batch=micro_batch, global_batch=8)
    return build_training(
        tiny_llama(dtype), make_samples([9, 5, 7, 11]), plan, adapter=adapter, validation=samples
    )  # fmt: skip


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_the_loss_does_not_depend_on_the_batch_size(micro_batch):
    training = _training(micro_batch, adapter=None)
    measured = evaluate_loss(training)
    samples = training.validation
    with torch.no_grad():
        nll = sum(summed_nll(tiny_llama(), s) for s in samples)
    num_taught = sum(int(s.taught[1:].sum()) for s in samples)
    assert measured["num_taught"] == num_taught
    assert measured["loss"] == pytest.approx(nll.item() / num_taught, rel=1e-10)


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_in_float32_the_batch_size_changes_rounding_alone(micro_batch):
    whole, split = (evaluate_loss(_training(m, dtype=torch.float32)) for m in (8, micro_batch))
    assert split["loss"] == pytest.approx(whole["loss"], abs=1e-6)
    assert split["token_accuracy"] == whole["token_accuracy"]


def test_dropout_is_off_in_evaluation_and_on_again_in_training():
    with_dropout = _training(2, adapter=Adapter(rank=4, alpha=8.0, dropout=0.5))
    without = _training(2)
    assert evaluate_loss(with_dropout)["loss"] == evaluate_loss(without)["loss"]
    (dropped,), (plain,) = run_steps(with_dropout, [0]), run_steps(without, [0])
    assert abs(dropped.loss - plain.loss) > 1e-3


def test_evaluation_moves_nothing():
    training, other = _training(2), _training(2)
    run_steps(training, [0])
    evaluate_loss(training)
    run_steps(other, [0])
    (first,), (second,) = run_steps(training, [0]), run_steps(other, [0])
    assert (first.loss, first.grad_norm) == (second.loss, second.grad_norm)


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_together_evaluate_every_row_once(monkeypatch, world_size):
    """What `sum_over_ranks` would add up, without processes: tests/numerics/test_world_size.py has the real ones."""
    seen = []
    monkeypatch.setattr("whet.train.held_out.sum_over_ranks", lambda totals, *_: seen.append(totals) or totals)
    training = _training(2, adapter=None)
    whole = evaluate_loss(training)
    seen.clear()
    for rank in range(world_size):
        layout = Layout(world_size=world_size, data_rank=rank, num_data_ranks=world_size)
        evaluate_loss(dataclasses.replace(training, layout=layout))
    nll, num_taught, num_correct, num_halved = (sum(each) for each in zip(*seen, strict=True))
    assert num_halved == 0
    assert nll / num_taught == pytest.approx(whole["loss"], rel=1e-12)
    assert (num_taught, num_correct / num_taught) == (whole["num_taught"], whole["token_accuracy"])
