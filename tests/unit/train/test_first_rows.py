"""The rows that a start looks at: the first of the run's own order, the same on any number of ranks."""

import pytest
import torch
from tiny import build_training, distance, loss_model_of, make_plan, make_samples, summed_nll, tiny_llama

from whet.data.sampler import epoch_order
from whet.train import first_rows
from whet.train.first_rows import first_losses

LENGTHS = [17, 9, 30, 5, 12, 8, 21, 3, 14, 6, 11]
SAMPLES = make_samples(LENGTHS)


@pytest.fixture
def seen(monkeypatch):
    """Ids of the samples of every forward pass, as they are packed."""
    passes, pack = [], first_rows.pack

    def note(samples, device):
        passes.append([s.id for s in samples])
        return pack(samples, device)

    monkeypatch.setattr(first_rows, "pack", note)
    return passes


def _losses(*, world_size=1, micro_batch=2, global_batch=4):
    model = tiny_llama()
    plan = make_plan(len(SAMPLES), micro_batch=micro_batch, global_batch=global_batch, world_size=world_size)
    order = build_training(tiny_llama(), SAMPLES, plan).order
    return first_losses(model, loss_model_of(model), SAMPLES, order, plan, torch.device("cpu"))


def test_an_epoch_is_seen_once_in_the_runs_order_and_the_losses_are_the_models(seen):
    losses = [loss.item() for loss in _losses()]
    in_order = [SAMPLES[i] for i in epoch_order(len(SAMPLES), seed=0, epoch=0)]
    assert seen == [[sample.id] for sample in in_order]
    model = tiny_llama()
    for loss, sample in zip(losses, in_order, strict=True):
        assert loss == pytest.approx(summed_nll(model, sample).item(), rel=1e-12)


@pytest.mark.parametrize("split", [{"world_size": 2}, {"micro_batch": 4}, {"micro_batch": 1}])
def test_ranks_and_passes_do_not_change_what_is_seen(seen, split):
    losses = [loss.item() for loss in _losses()]
    alone, seen[:] = list(seen), []
    assert [loss.item() for loss in _losses(**split)] == losses
    assert seen == alone


@pytest.mark.parametrize(("limit", "number"), [("NUM_SAMPLES", 5), ("NUM_TOKENS", 40)])
def test_samples_are_taken_until_the_limit_is_reached(seen, monkeypatch, limit, number):
    monkeypatch.setattr(first_rows, limit, number)
    list(_losses())
    lengths = {sample.id: sample.num_tokens for sample in SAMPLES}
    sizes = [1 if limit == "NUM_SAMPLES" else sum(lengths[i] for i in p) for p in seen]
    assert sum(sizes[:-1]) < number <= sum(sizes)


def test_gradients_reach_the_weights():
    model = tiny_llama()
    plan = make_plan(len(SAMPLES), micro_batch=2, global_batch=4)
    order = build_training(tiny_llama(), SAMPLES, plan).order
    for loss in first_losses(model, loss_model_of(model), SAMPLES, order, plan, torch.device("cpu")):
        loss.backward()
    other = tiny_llama()
    sum(summed_nll(other, sample) for sample in SAMPLES).backward()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert distance(mine.grad, theirs.grad) < 1e-10
