"""Law: the adapter that trains is PEFT's: same factors, same forward pass, same gradients."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import LORA, attach, distance, loss_model_of, make_samples, perturb, summed_nll, tiny_llama

from whet.data.packing import pack
from whet.errors import RecipeError
from whet.kernels import select
from whet.kernels.dropout import DropoutState
from whet.models.adapters import ADAPTER_NAME
from whet.recipe.schema import Adapter

(SAMPLE,) = make_samples([23])
DROPOUT = Adapter(rank=4, alpha=8.0, dropout=0.3)


def _peft(dtype, adapter=LORA, factors=None):
    """PEFT's own model with the given factors, nothing of whet in it, by PEFT's saved names."""
    config = LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj",
        "up_proj", "down_proj"], task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(tiny_llama(dtype), config)
    named = {n.replace(".default.", "."): p for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, value in (factors or {}).items():
            named[name].copy_(value)
    return model, named


def _whet(dtype, adapter=LORA):
    model = tiny_llama(dtype)
    dropout = DropoutState(0)
    trainables = attach(model, adapter, dropout)
    perturb(trainables)
    kernels = select.install(model, adapter_name=ADAPTER_NAME)
    assert kernels["adapter"] == "fused function in 14 layers"
    assert kernels["qkv"] == kernels["mlp"] == "fused function in 2 blocks"
    return model, trainables, dropout


def _flat(named, names):
    return torch.cat([named[n].grad.reshape(-1) for n in names])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_loss_and_gradients_equal_pefts(dtype, tolerance):
    model, trainables, _ = _whet(dtype)
    reference, named = _peft(dtype, factors=trainables.named)
    assert set(named) == set(trainables.named)
    expected = summed_nll(reference, SAMPLE) / SAMPLE.num_taught
    nll = loss_model_of(model).nll_sum(pack([SAMPLE])) / SAMPLE.num_taught
    assert nll.item() == pytest.approx(expected.item(), abs=tolerance)
    expected.backward()
    nll.backward()
    assert distance(_flat(trainables.named, named), _flat(named, named)) < tolerance
    for name in named:
        assert distance(trainables.named[name].grad, named[name].grad) < 10 * tolerance, name


def test_installed_and_uninstalled_compute_the_same():
    model, trainables, _ = _whet(torch.float64)
    batch = pack(make_samples([17, 9, 1]))
    results = []
    for _ in range(2):
        nll = loss_model_of(model).nll_sum(batch)
        model.zero_grad()
        nll.backward()
        results.append((nll.item(), _flat(trainables.named, trainables.named)))
        select.install(model, adapter_name=ADAPTER_NAME, off=select.SWITCHES)
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    assert distance(results[0][1], results[1][1]) < 1e-12


def test_with_dropout_a_layer_is_pefts_formula_with_the_same_mask():
    """W x + (alpha / r) B A (mask * x / (1 - p)), written out; PEFT's own masks come from a generator."""
    model, _, dropout = _whet(torch.float64, DROPOUT)
    model.train()
    calls = []
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.register_forward_hook(lambda module, args, out: calls.append((module, args[0], out)))
    batch = pack([SAMPLE])
    masks = set()
    with dropout.micro_batch(3, batch), torch.no_grad():
        loss_model_of(model).nll_sum(batch)
        for layer, x, out in calls:
            keep = layer.lora_dropout[ADAPTER_NAME].mask(x.shape[-1], x.device)
            masks.add(keep.numpy().tobytes())
            a, b = layer.lora_A[ADAPTER_NAME].weight, layer.lora_B[ADAPTER_NAME].weight
            expected = x @ layer.base_layer.weight.T + 2.0 * (x * keep / 0.7) @ a.T @ b.T
            torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    # one mask per projection, as in PEFT: none is shared, not even between q, k and v of one layer
    assert len(masks) == len(calls) == 14


def test_fused_and_unfused_layers_see_the_same_dropout():
    model, trainables, dropout = _whet(torch.float64, DROPOUT)
    model.train()
    batch = pack(make_samples([17, 9]))
    results = []
    for _ in range(2):
        model.zero_grad()
        with dropout.micro_batch(5, batch):
            nll = loss_model_of(model).nll_sum(batch)
            nll.backward()
        results.append((nll.item(), _flat(trainables.named, trainables.named)))
        select.install(model, adapter_name=ADAPTER_NAME, off=select.SWITCHES)
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    assert distance(results[0][1], results[1][1]) < 1e-12


def test_dropout_moves_the_loss_in_training_and_not_in_evaluation():
    model, _, dropout = _whet(torch.float64, DROPOUT)
    plain, _, _ = _whet(torch.float64)
    batch = pack([SAMPLE])
    with torch.no_grad(), dropout.micro_batch(0, batch):
        evaluated = loss_model_of(model.eval()).nll_sum(batch).item()
        trained = loss_model_of(model.train()).nll_sum(batch).item()
    assert evaluated == pytest.approx(loss_model_of(plain).nll_sum(batch).item(), rel=1e-12)
    assert abs(trained - evaluated) > 1e-3


def test_at_step_0_the_model_is_the_base():
    model, base = tiny_llama(torch.float32), tiny_llama(torch.float32)
    attach(model, LORA)
    select.install(model, adapter_name=ADAPTER_NAME)
    select.install(base, adapter_name=None)
    batch = pack([SAMPLE])
    assert torch.equal(loss_model_of(model).hidden(batch), loss_model_of(base).hidden(batch))


def _closed_form(rank, targets):
    """r (in + out) per adapted layer, 2 layers: hidden 64, keys and values 32, inner 96."""
    shapes = {"q_proj": (64, 64), "k_proj": (64, 32), "v_proj": (64, 32), "o_proj": (64, 64)}
    shapes |= {"gate_proj": (64, 96), "up_proj": (64, 96), "down_proj": (96, 64)}
    return sum(2 * rank * sum(shapes[name]) for name in (shapes if targets == "all-linear" else targets))


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj"), ("down_proj",)])
@pytest.mark.parametrize("rank", [1, 8])
def test_the_number_of_trained_parameters_is_the_closed_form(rank, targets):
    model = tiny_llama()
    trainables = attach(model, Adapter(rank=rank, targets=targets))
    assert trainables.num_parameters == _closed_form(rank, targets)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainables.num_parameters


def test_a_target_that_matches_nothing_is_refused():
    with pytest.raises(RecipeError, match="does not have: query_key_value") as error:
        attach(tiny_llama(), Adapter(targets=("q_proj", "query_key_value")))
    assert "q_proj" in error.value.mend


def test_the_seed_alone_decides_the_factors():
    before = torch.get_rng_state()
    first, same, other = (attach(tiny_llama(), LORA, seed=seed).tensors() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert not any(torch.equal(first[n], other[n]) for n in first if "lora_A" in n)
    # Kaiming's uniform rule with a = sqrt(5), as PEFT: U(-1/sqrt(in), 1/sqrt(in)), so std = 1 / sqrt(3 in)
    q = np.concatenate([first[n].detach().numpy().ravel() for n in first if "q_proj.lora_A" in n])
    assert np.abs(q).max() <= 1 / 8 and q.std() == pytest.approx(1 / (3 * 64) ** 0.5, rel=0.1)
    assert not any(t.any() for n, t in first.items() if "lora_B" in n)
