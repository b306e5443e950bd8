"""Law: full fine-tuning is the textbook loop: cross-entropy on full logits, clipping, AdamW."""

import math

import numpy as np
import pytest
import torch
from tiny import build_training, distance, make_plan, make_samples, run_steps, summed_nll, tiny_llama, values

from whet.data.sampler import Order
from whet.recipe.schema import Optim

OPTIM = Optim(lr=2e-3, schedule="cosine", warmup=1, weight_decay=0.1, max_grad_norm=0.5, betas=(0.9, 0.95))
SAMPLES = make_samples([17, 9, 30, 5, 12, 8])
PLAN = make_plan(len(SAMPLES), micro_batch=2, global_batch=4, total_steps=3, warmup_steps=1)


def _textbook(model):
    """Plain torch: no packing, no chunks, no fused kernels, no schedule object. Losses and norms before clipping."""
    decayed = [p for n, p in model.named_parameters() if p.ndim == 2]
    spared = [p for n, p in model.named_parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False)
    order = Order(np.array([s.num_tokens for s in SAMPLES]), seed=0)
    losses, norms = [], []
    for step, lr in enumerate([0.0, 2e-3, 2e-3 * (1 + math.cos(math.pi / 2)) / 2]):
        samples = [SAMPLES[i] for i in order.step(PLAN, step).indices]
        loss = sum(summed_nll(model, s) for s in samples) / sum(int(s.taught[1:].sum()) for s in samples)
        optimizer.zero_grad()
        loss.backward()
        norm = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
        for p in model.parameters():
            p.grad *= min(1.0, 0.5 / (norm.item() + 1e-6))
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    return losses, norms


@pytest.mark.parametrize("is_tied", [True, False])
def test_three_steps_equal_the_textbook_loop(is_tied):
    reference = tiny_llama(is_tied=is_tied)
    losses, norms = _textbook(reference)
    training = build_training(tiny_llama(is_tied=is_tied), SAMPLES, PLAN, optim=OPTIM)
    start = values(training)
    records = run_steps(training)
    assert [r.loss for r in records] == pytest.approx(losses, rel=1e-10)
    assert [r.grad_norm for r in records] == pytest.approx(norms, rel=1e-10)
    assert min(norms) > 0.5, "clipping must be at work"
    named = dict(reference.named_parameters())
    expected = torch.cat([named[n].detach().reshape(-1) for n in training.trainables.named])
    assert distance(values(training) - start, expected - start) < 1e-10


def test_a_tied_head_trains_once():
    tied = build_training(tiny_llama(), SAMPLES, PLAN).trainables
    untied = build_training(tiny_llama(is_tied=False), SAMPLES, PLAN).trainables
    assert untied.num_parameters - tied.num_parameters == 500 * 64
    assert "lm_head.weight" not in tied.named


def test_all_weights_train_in_float32_when_the_model_was_loaded_in_bfloat16():
    training = build_training(tiny_llama(torch.bfloat16), SAMPLES, PLAN)
    assert {p.dtype for p in training.trainables.named.values()} == {torch.float32}
