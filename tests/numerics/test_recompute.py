"""Law: what the backward pass computes anew changes memory alone; losses and gradients stay as they are, bit by bit."""

import pytest
import torch
from kept_bytes import KeptBytes
from tiny import (
    LORA,
    build_training,
    gradients,
    make_plan,
    make_samples,
    run_steps,
    tiny_llama,
    values,
)  # fmt: skip

from whet.data.packing import pack
from whet.kernels import norm, recompute
from whet.recipe.schema import Adapter, Optim

LEVELS = ("norms", "mlp", "full")
LENGTHS = [17, 9, 30, 5, 12, 8]
OPTIM = Optim(lr=1e-3, schedule="constant", warmup=0, max_grad_norm=0)
ADAPTERS = {"lora": LORA, "lora with dropout": Adapter(rank=4, alpha=8.0, dropout=0.3), "all weights": None}


def training_of(adapter, level, dtype=torch.float32, *, is_fused=True):
    """A run over the samples with all fast paths (or the norms of transformers), then recompute at `level`."""
    plan = make_plan(len(LENGTHS), micro_batch=2, global_batch=4, total_steps=4)
    training = build_training(tiny_llama(dtype), make_samples(LENGTHS), plan, adapter=adapter, optim=OPTIM)
    norm.uninstall(training.model)
    if is_fused:
        norm.install(training.model)
    recompute.install(training.model, level)
    return training


def kept_bytes(training):
    batch = pack(training.samples, training.device)
    with training.dropout.micro_batch(0, batch), KeptBytes() as kept:
        loss = training.loss_model.nll_sum(batch)
        total = kept.total
        loss.backward()
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_losses_gradients_and_weights_are_the_same_to_the_last_bit(adapter, dtype):
    _check_all_levels(adapter, dtype, is_fused=True)


def test_so_they_are_with_the_norms_of_transformers():
    _check_all_levels(ADAPTERS["lora with dropout"], torch.float32, is_fused=False)


def _check_all_levels(adapter, dtype, *, is_fused):
    plain = training_of(adapter, "none", dtype, is_fused=is_fused)
    expected = run_steps(plain)
    for level in LEVELS:
        training = training_of(adapter, level, dtype, is_fused=is_fused)
        assert [(r.loss, r.grad_norm) for r in run_steps(training)] == [(r.loss, r.grad_norm) for r in expected]
        assert torch.equal(gradients(training), gradients(plain))
        assert torch.equal(values(training), values(plain))


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_every_level_keeps_less_than_the_one_before(adapter):
    kept = [kept_bytes(training_of(adapter, level)) for level in ("none", *LEVELS)]
    assert kept == sorted(set(kept), reverse=True), kept


def test_norms_keep_one_hidden_state_less_per_token_and_norm():
    none, norms = (kept_bytes(training_of(LORA, level)) for level in ("none", "norms"))
    num_norms = 2 * 2 - 1  # before the first one nothing trains, so its input is not kept either
    assert none - norms == num_norms * 64 * sum(LENGTHS) * 4


def test_full_keeps_the_input_of_each_layer_alone():
    """One layer more is one hidden state per token more."""
    two, one = training_of(LORA, "full"), training_of(LORA, "full")
    one.model.config.num_hidden_layers = 1
    assert kept_bytes(two) - kept_bytes(one) == 64 * sum(LENGTHS) * 4


def test_evaluation_is_the_same():
    training = training_of(LORA, "full")
    batch = pack(training.samples, training.device)
    expected = training_of(LORA, "none")
    assert training.loss_model.evaluate(batch) == expected.loss_model.evaluate(batch)


def test_what_is_installed_can_be_taken_off_and_nothing_is_left():
    model = tiny_llama(torch.float32)
    norm.install(model)
    before = [dict(vars(module)) for module in model.modules()]
    for level in LEVELS:
        recompute.install(model, level)
        with pytest.raises(RuntimeError, match="installed already"):
            recompute.install(model, "full")
        recompute.uninstall(model)
        assert [dict(vars(module)) for module in model.modules()] == before


def test_layers_of_other_parts_are_refused_before_any_is_changed():
    model = tiny_llama(torch.float32)
    model.model.layers[1].add_module("post_feedforward_layernorm", torch.nn.LayerNorm(64))
    for level in ("norms", "mlp"):
        with pytest.raises(ValueError, match="post_feedforward_layernorm"):
            recompute.install(model, level)
    assert not any("forward" in vars(module) for module in model.modules())
    recompute.install(model, "full")


def test_an_input_changed_in_place_is_an_error_not_another_gradient():
    layer = tiny_llama(torch.float32).model.layers[0]
    layer.forward = lambda x: layer.mlp(layer.input_layernorm(x))
    recompute._wrap_norms(layer)
    x = torch.randn(1, 5, 64)
    out = layer(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="in place"):
        out.sum().backward()
