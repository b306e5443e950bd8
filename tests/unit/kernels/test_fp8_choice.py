"""Which layers a float8 base keeps: the foreseen cost is the measured one, and the budget is held."""

from __future__ import annotations

import pytest
import torch
from tiny import make_samples, tiny_llama
from torch import nn

from whet.kernels import fp8
from whet.kernels.fp8_choice import NUM_ROWS, Costs, choose_kept, linear_names, rounding_costs
from whet.kernels.fp8_linear import quantize_linears

CPU = torch.device("cpu")
SAMPLES = make_samples([17, 9, 30, 5, 12, 28, 40, 33] * 2)


@torch.no_grad()
def token_losses(model: nn.Module) -> torch.Tensor:
    """Loss of every taught token, one row at a time."""
    losses = []
    for sample in SAMPLES:
        ids = torch.from_numpy(sample.ids.astype("int64"))[None]
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        loss = nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        losses.append(loss[torch.from_numpy(sample.taught[1:].astype("bool"))])
    return torch.cat(losses)


def rounded_alone(name: str) -> nn.Module:
    model = tiny_llama(torch.float64)
    quantize_linears(model, device=CPU, dtype=torch.float64, kept=set(linear_names(model)) - {name})
    return model


def test_the_foreseen_cost_of_a_layer_is_half_the_mean_square_of_the_changes_that_its_rounding_makes():
    assert len(SAMPLES) == NUM_ROWS
    exact = token_losses(tiny_llama(torch.float64))
    costs = rounding_costs(tiny_llama(torch.float64), SAMPLES)
    assert costs.loss == pytest.approx(exact.mean().item(), rel=1e-6)
    foreseen = torch.tensor(list(costs.by_layer.values()))
    measured = torch.tensor([
        (token_losses(rounded_alone(name)) - exact).square().mean().item() / 2 for name in costs.by_layer
    ])  # fmt: skip
    assert foreseen.sum().item() == pytest.approx(measured.sum().item(), rel=0.3)
    assert torch.corrcoef(torch.stack([foreseen.log(), measured.log()]))[0, 1] > 0.8


def test_the_model_comes_back_as_it_was_but_frozen():
    model = tiny_llama(torch.float32).train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    rounding_costs(model, SAMPLES)
    assert model.training and not any(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_rounds_without_loss_costs_nothing():
    model = tiny_llama(torch.float64)
    name = linear_names(model)[-1]
    layer = model.get_submodule(name)
    layer.weight.data.zero_()
    assert rounding_costs(model, SAMPLES).by_layer[name] == 0.0
    assert torch.equal(fp8.round_rows(layer.weight), layer.weight)


def test_the_cheapest_weights_are_rounded_first_and_the_sum_stays_within_the_budget():
    by_layer = {"a.down_proj": 0.004, "b.down_proj": 0.002, "c.down_proj": 0.010, "d.down_proj": 0.001}
    sizes = {"a.down_proj": 100, "b.down_proj": 10, "c.down_proj": 100, "d.down_proj": 100}
    costs = Costs(2.0, by_layer)
    assert choose_kept(costs, sizes, budget=0.0025) == ("b.down_proj", "c.down_proj")
    assert choose_kept(costs, sizes, budget=0.0024) == ("a.down_proj", "b.down_proj", "c.down_proj")
    assert choose_kept(costs, sizes, budget=1.0) == ()
    assert choose_kept(costs, sizes, budget=0.0) == tuple(sorted(by_layer))


def test_layers_of_one_function_are_rounded_together_or_not_at_all():
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    dear = {"k_proj": 1.0, "up_proj": 1.0}
    by_layer = {f"{block}.{name}": dear.get(name, 1e-6) if block == "0" else 1e-6 for block in "01" for name in names}
    kept = choose_kept(Costs(1.0, by_layer), dict.fromkeys(by_layer, 10), budget=0.01)
    assert kept == tuple(f"0.{name}" for name in sorted(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")))
