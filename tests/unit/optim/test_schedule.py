import math

import pytest
import torch
from transformers import get_scheduler

from whet.optim.schedule import lr_at
from whet.recipe.schema import Optim

NAMES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
CASES = [(1, 0), (10, 0), (10, 3), (10, 9), (10, 10), (137, 5)]


def _closed_form(shape, peak, step, total, warmup):
    if step < warmup:
        return peak * step / warmup
    x = (step - warmup) / (total - warmup) if total > warmup else 0.0
    return peak * {"constant": 1.0, "linear": 1 - x, "cosine": (1 + math.cos(math.pi * x)) / 2}[shape]


@pytest.mark.parametrize(("total", "warmup"), CASES)
@pytest.mark.parametrize("shape", NAMES)
def test_every_step_has_the_rate_of_the_closed_form(shape, total, warmup):
    optim = Optim(lr=3e-4, schedule=shape)
    for step in range(total):
        lr = lr_at(step, optim, total_steps=total, warmup_steps=warmup)
        assert lr == pytest.approx(_closed_form(shape, 3e-4, step, total, warmup), rel=1e-12, abs=1e-16)


@pytest.mark.parametrize(("total", "warmup"), CASES)
@pytest.mark.parametrize("shape", NAMES)
def test_every_step_has_the_rate_of_transformers(shape, total, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    scheduler = get_scheduler(NAMES[shape], optimizer, num_warmup_steps=warmup, num_training_steps=total)
    optim = Optim(lr=3e-4, schedule=shape)
    for step in range(total):
        expected = scheduler.get_last_lr()[0]
        assert lr_at(step, optim, total_steps=total, warmup_steps=warmup) == pytest.approx(expected, rel=1e-12, abs=0)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_the_rate_after_the_last_step_would_be_zero(shape):
    optim = Optim(lr=3e-4, schedule=shape)
    assert lr_at(10, optim, total_steps=10, warmup_steps=2) == pytest.approx(0, abs=1e-18)
