"""The first offending module: planted in one place after the other, and found there."""

import dataclasses

import pytest
import torch
from planted import plant
from tiny import LORA, build_training, make_plan, make_samples, tiny_llama
from torch import nn

from whet.train.first_bad import Watch, broken_names

SAMPLES = make_samples([7, 9])


def place_of(training, batch=None):
    batch = batch or training.rows(0).batches[0]
    with Watch(training.model) as watch, training.dropout.micro_batch(0, batch):
        nll = training.loss_model.nll_sum(batch)
        watch.forward_is_over(nll)
        nll.backward()
        watch.backward_is_over()
    return watch.place


def training_of(adapter=LORA, level="none", **changes):
    plan = make_plan(2, micro_batch=2, global_batch=2)
    adapter = dataclasses.replace(adapter, dropout=0.1) if adapter else None
    return build_training(
        tiny_llama(torch.float32), SAMPLES, plan, adapter=adapter, recompute_level=level, **changes
    )  # fmt: skip


MODULES = [
    "embed_tokens", "layers.0", "layers.0.mlp", "layers.1.self_attn", "layers.1.input_layernorm",
    "layers.0.mlp.down_proj", "layers.1.self_attn.k_proj", "norm",
]  # fmt: skip


@pytest.mark.parametrize("adapter", [LORA, None], ids=["lora", "all weights"])
@pytest.mark.parametrize("module", MODULES)
def test_the_module_whose_output_is_not_finite_is_named(module, adapter):
    training = training_of(adapter)
    plant(training.loss_model, "sample-0", module=module, kind="forward", factor=float("inf"))
    place = place_of(training)
    assert (place.phase, place.module, place.dtype) == ("forward", f"model.{module}", "float32")
    assert place.input_peak is None if module == "embed_tokens" else 0 < place.input_peak < 1e3


@pytest.mark.parametrize("level", ["norms", "mlp", "full"])
def test_it_is_named_although_layers_are_computed_again(level):
    training = training_of(level=level)
    plant(training.loss_model, "sample-1", module="layers.1.self_attn", kind="forward")
    assert place_of(training).module == "model.layers.1.self_attn"


@pytest.mark.parametrize("adapter", [LORA, None], ids=["lora", "all weights"])
@pytest.mark.parametrize(
    ("module", "named"),
    [
        ("layers.1.mlp", "model.layers.1.mlp"),
        ("layers.0.mlp.down_proj", "model.layers.0.mlp.down_proj"),
        ("layers.0.self_attn.o_proj", "model.layers.0.self_attn.o_proj"),
        ("norm", "model.norm"),
    ],
)
def test_the_module_whose_backward_pass_makes_it_is_named(module, named, adapter):
    training = training_of(adapter)
    plant(training.loss_model, "sample-0", module=module, kind="backward", factor=float("inf"))
    place = place_of(training)
    assert place.phase == "backward"
    # of an adapted layer that is called as a whole, its adapter may come first
    assert place.module in (named, f"{named}.lora_A", f"{named}.lora_B")
    assert "backward pass" in place.sentence() and named in place.sentence()


def test_what_is_made_between_the_parts_of_a_module_is_the_modules():
    """Finite projections whose product overflows, as it happens in feed-forward parts."""
    training = training_of(None)
    mlp = training.model.model.layers[1].mlp
    with torch.no_grad():
        mlp.gate_proj.weight.mul_(1e20)
        mlp.up_proj.weight.mul_(1e20)
    place = place_of(training)
    assert place.module == "model.layers.1.mlp" and "before down_proj" in place.detail
    assert 0 < place.input_peak < 1e3


def test_a_loss_that_overflows_behind_the_last_module_is_the_heads():
    training = training_of(None, uses_autocast=False)
    head = training.model.get_output_embeddings()
    hidden = training.loss_model.hidden
    training.loss_model.hidden = lambda batch: hidden(batch) * 3e38
    place = place_of(training)
    assert place.module == "lm_head" and head is training.loss_model.head


def test_gradients_that_are_finite_each_and_have_no_finite_norm_are_told_by_the_largest():
    training = training_of()
    parameter = training.model.model.layers[1].self_attn.q_proj.lora_B["default"].weight
    parameter.register_hook(lambda gradient: torch.full_like(gradient, 1e25))
    place = place_of(training)
    assert (place.phase, place.module) == ("backward", "model.layers.1.self_attn.q_proj.lora_B")
    assert "1e+25" in place.detail


def test_a_parameter_whose_own_gradient_is_not_finite_is_named():
    training = training_of(None)
    training.model.model.layers[0].mlp.up_proj.weight.register_hook(lambda gradient: gradient * float("nan"))
    assert place_of(training).module == "model.layers.0.mlp.up_proj"


def test_watching_changes_nothing_and_leaves_nothing_behind():
    training = training_of()
    batch = training.rows(0).batches[0]
    with training.dropout.micro_batch(0, batch):
        before = training.loss_model.nll_sum(batch).item()
    place_of(training)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in training.model.modules())
    with training.dropout.micro_batch(0, batch):
        assert training.loss_model.nll_sum(batch).item() == before


def test_only_tensors_that_hold_something_not_finite_are_broken():
    tensors = {
        "fine": torch.ones(3), "nan": torch.tensor([1.0, float("nan")]), "minus": torch.tensor([-float("inf"), 0.0]),
        "large": torch.full((4,), 3e38), "none": torch.zeros(0), "codes": torch.zeros(3, dtype=torch.uint8),
        "narrow": torch.tensor([float("nan")], dtype=torch.bfloat16),
    }  # fmt: skip
    assert broken_names(tensors.items()) == ["nan", "minus", "narrow"]
    assert broken_names([("weight", nn.Parameter(torch.tensor([float("inf")])))]) == ["weight"]
