import pytest
import torch
from torch import nn

from whet.optim import master
from whet.optim.build import build_optimizer, load_optimizer_tensors, optimizer_tensors
from whet.recipe.schema import Optim

OPTIM = Optim(lr=1e-3, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6)
SHAPES = {"matrix.weight": (30, 40), "norm.weight": (40,), "other.weight": (7, 9)}


def _masters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    named = {n: nn.Parameter(torch.randn(s, generator=generator), requires_grad=False) for n, s in SHAPES.items()}
    return named, {n: nn.Parameter(p.detach().bfloat16()) for n, p in named.items()}


def _step(optimizer, weights, seed):
    generator = torch.Generator().manual_seed(seed)
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape, generator=generator).bfloat16()
    optimizer.step()


@pytest.mark.parametrize("portion_bytes", [1, 300, 2**30])
def test_masters_move_as_float32_adamw_moves_and_weights_are_their_rounding(portion_bytes, monkeypatch):
    monkeypatch.setattr(master, "WIDE_GRADIENT_BYTES", portion_bytes)
    named, weights = _masters()
    plain, _ = _masters()
    optimizer = build_optimizer(named, OPTIM, weights=weights)
    reference = build_optimizer(plain, OPTIM)
    for seed in (1, 2, 3):
        _step(optimizer, weights, seed)
        for name, parameter in plain.items():
            parameter.grad = weights[name].grad.float()
        reference.step()
    assert all(torch.equal(named[name], plain[name]) for name in named)
    assert all(torch.equal(weights[name], named[name].bfloat16()) for name in named)
    assert {w.grad.dtype for w in weights.values()} == {torch.bfloat16}
    assert all(p.grad is None for p in named.values()), "no float32 gradient is left"


def test_updates_below_the_precision_of_bfloat16_add_up():
    optim = Optim(lr=1e-4, schedule="constant", warmup=0)
    named = {"weight": nn.Parameter(torch.ones(64, 2), requires_grad=False)}
    weights = {"weight": nn.Parameter(torch.ones(64, 2).bfloat16())}
    optimizer = build_optimizer(named, optim, weights=weights)
    for _ in range(100):
        weights["weight"].grad = torch.ones(64, 2).bfloat16()
        optimizer.step()
    # each step is 1e-4, a twentieth of half a bfloat16 step below 1
    assert torch.allclose(weights["weight"].float(), torch.full((64, 2), 0.99), atol=0.004)


def test_a_weight_without_a_gradient_stays():
    named, weights = _masters()
    before = {n: w.clone() for n, w in weights.items()}
    optimizer = build_optimizer(named, OPTIM, weights=weights)
    weights["norm.weight"].grad = torch.ones(40).bfloat16()
    optimizer.step()
    assert not torch.equal(weights["norm.weight"], before["norm.weight"])
    assert torch.equal(weights["matrix.weight"], before["matrix.weight"])
    assert set(optimizer_tensors(optimizer, named)) == {
        f"norm.weight.{key}" for key in ("step", "exp_avg", "exp_avg_sq")
    }
    optimizer.zero_grad()
    assert all(w.grad is None for w in weights.values())


def test_weights_follow_masters_from_the_start():
    named, weights = _masters()
    with torch.no_grad():
        weights["matrix.weight"].zero_()
    build_optimizer(named, OPTIM, weights=weights)
    assert torch.equal(weights["matrix.weight"], named["matrix.weight"].bfloat16())


def test_a_saved_state_goes_on_bit_for_bit():
    (straight, weights), (stopped, stopped_weights) = _masters(), _masters()
    optimizer, first = (build_optimizer(straight, OPTIM, weights=weights),
                        build_optimizer(stopped, OPTIM, weights=stopped_weights))  # fmt: skip
    for seed in (1, 2, 3):
        _step(optimizer, weights, seed)
    _step(first, stopped_weights, 1)
    saved = {n: t.clone() for n, t in optimizer_tensors(first, stopped).items()}
    second = build_optimizer(stopped, OPTIM, weights=stopped_weights)
    load_optimizer_tensors(second, stopped, saved)
    for seed in (2, 3):
        _step(second, stopped_weights, seed)
    assert all(torch.equal(straight[n], stopped[n]) for n in straight)
