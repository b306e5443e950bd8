"""Fifty training steps with the Triton kernels and with torch: the same losses."""

import pytest
import torch
from tiny import build_training, make_plan, make_samples, run_steps, tiny_llama

from whet.recipe.schema import Adapter, Optim

NUM_STEPS = 50
LENGTHS = (5, 3, 4, 3, 6, 4, 5, 3)  # the interpreter takes a millisecond per token and kernel


def _losses(adapter):
    samples = make_samples(LENGTHS)
    plan = make_plan(len(samples), micro_batch=2, global_batch=4, total_steps=NUM_STEPS)
    training = build_training(
        tiny_llama(torch.float32), samples, plan, adapter=adapter, optim=Optim(lr=3e-3, schedule="constant", warmup=0),
        is_perturbed=False,
    )  # fmt: skip
    return [record.loss for record in run_steps(training)], training.kernels


# sums in another order differ by 1e-7, and Adam moves what has a gradient near zero by a whole learning rate either way
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("adapter", [None, Adapter(rank=4, alpha=8.0, dropout=0.05)])
def test_fifty_steps_have_the_losses_of_torch(adapter, monkeypatch):
    ours, kernels = _losses(adapter)
    assert kernels["triton"] == "norm, rotary, swiglu"
    assert ours[-1] < ours[0] - 0.5, "nothing was learnt, so that nothing was compared"
    monkeypatch.setenv("WHET_TRITON", "off")
    assert max(abs(a - b) for a, b in zip(ours, _losses(adapter)[0], strict=True)) < 1e-5
