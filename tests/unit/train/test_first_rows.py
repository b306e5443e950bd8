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
    ids = [sample.id for sample in SAMPLES]
    expected = [ids[i] for i in epoch_order(len(ids), seed=0, epoch=0)]
    assert [{*a, *b} for a, b in zip(seen[0::2], seen[1::2], strict=True)] == [
        set(expected[start : start + 4]) for start in (0, 4, 8)
    ]
    model = tiny_llama()
    for loss, one_pass in zip(losses, seen, strict=True):
        alone = sum(summed_nll(model, sample).item() for sample in SAMPLES if sample.id in one_pass)
        assert loss == pytest.approx(alone, rel=1e-12)


def test_two_ranks_see_the_passes_of_one(seen):
    list(_losses())
    alone, seen[:] = list(seen), []
    list(_losses(world_size=2))
    assert seen == alone


@pytest.mark.parametrize(("limit", "number"), [("NUM_SAMPLES", 5), ("NUM_TOKENS", 40)])
def test_whole_passes_are_taken_until_the_limit_is_reached(seen, monkeypatch, limit, number):
    monkeypatch.setattr(first_rows, limit, number)
    list(_losses())
    lengths = {sample.id: sample.num_tokens for sample in SAMPLES}
    sizes = [len(p) if limit == "NUM_SAMPLES" else sum(lengths[i] for i in p) for p in seen]
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
