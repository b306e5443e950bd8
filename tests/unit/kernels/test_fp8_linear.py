"""Linear layers in float8 compute what is documented, alone, under PEFT and in the fused functions."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import LORA, attach, perturb, tiny_llama
from torch import Tensor, nn

from whet.kernels import fp8, lora_linear, select
from whet.kernels.fp8_linear import Fp8Linear, describe, fp8_linear, quantize_linears
from whet.kernels.lora_adapter import Layer, Setting, Tensors
from whet.kernels.lora_linear import lora_linears
from whet.kernels.lora_mlp import lora_mlp
from whet.models.adapters import ADAPTER_NAME

CPU = torch.device("cpu")
IDS = torch.arange(3, 60)[None]
TOKENS, INPUTS, OUTPUTS, RANK = 9, 32, 48, 4


def integers(*shape: int, seed: int, largest: int = 8) -> Tensor:
    """Whole numbers of at most 4 bits: float8 holds them, and any of them times powers of two, exactly."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, shape, generator=generator).double()


def weight_of(num_outputs: int, num_inputs: int, seed: int) -> fp8.Fp8Weight:
    """Rows of different scale."""
    generator = torch.Generator().manual_seed(seed)
    weight_OI = torch.randn(num_outputs, num_inputs, generator=generator, dtype=torch.float64)
    return fp8.quantize_weight(weight_OI * 4.0 ** (torch.arange(num_outputs) % 4)[:, None], is_real=False)


def layer_of(num_outputs: int, num_inputs: int, seed: int, scale: float) -> tuple[Layer, Layer]:
    """An adapted layer over a float8 weight, and the same one over the rounded weight as any other."""
    weight = weight_of(num_outputs, num_inputs, seed)
    a_RI, b_OR = integers(RANK, num_inputs, seed=seed + 1), integers(num_outputs, RANK, seed=seed + 2)
    a_RI, b_OR = a_RI.requires_grad_(), b_OR.requires_grad_()
    rounded = Tensors(weight.values_OI, None, a_RI, b_OR, scale_O1=weight.scale_O1)
    return Layer(rounded, Setting(scale)), Layer(Tensors(weight.values_OI, None, a_RI, b_OR), Setting(scale))


def test_value_and_gradient_are_the_documented_ones():
    """y = Q(x) W^T + b; dx = Q(dy s^T) q, not the gradient of what Q did to x."""
    weight = weight_of(OUTPUTS, INPUTS, 0)
    generator = torch.Generator().manual_seed(1)
    x_TI = torch.randn(TOKENS, INPUTS, generator=generator, dtype=torch.float64, requires_grad=True)
    bias_O, dy_TO = (
        torch.randn(OUTPUTS, generator=generator).double(),
        torch.randn(TOKENS, OUTPUTS, generator=generator),
    )
    # small where W is large: rounded without W's scale, it would lose its last bits
    dy_TO = dy_TO.double() / weight.scale_O1.T**2
    y_TO = fp8_linear(x_TI, weight, bias_O)
    (dx_TI,) = torch.autograd.grad(y_TO, x_TI, dy_TO)
    q, scale = fp8.quantize_rows(x_TI.detach())
    torch.testing.assert_close(y_TO, (q.double() * scale) @ weight.values_OI.T + bias_O)
    q, scale = fp8.quantize_rows(dy_TO * weight.scale_O1.T)
    torch.testing.assert_close(dx_TI, (q.double() * scale) @ (weight.values_OI / weight.scale_O1))


def test_the_gradient_is_that_of_the_rounded_layer_where_dy_is_representable():
    """Finite differences of the straight-through function, x W^T with the rounded W."""
    weight = weight_of(OUTPUTS, INPUTS, 0)
    x_TI = integers(TOKENS, INPUTS, seed=1).requires_grad_()
    dy_TO = integers(TOKENS, OUTPUTS, seed=2)
    (dx_TI,) = torch.autograd.grad(fp8_linear(x_TI, weight), x_TI, dy_TO)
    step = 1e-3
    for token, channel in ((0, 0), (3, 17), (8, 31)):
        moved_TI = x_TI.detach().clone()
        moved_TI[token, channel] += step
        difference = (((moved_TI - x_TI) @ weight.values_OI.T) * dy_TO).sum() / step
        torch.testing.assert_close(dx_TI[token, channel], difference, rtol=1e-8, atol=1e-8)


def test_fused_layers_are_those_over_the_rounded_weights_where_rounding_changes_nothing():
    ours, theirs = zip(*(layer_of(OUTPUTS, INPUTS, seed, 0.5) for seed in (1, 5, 9)), strict=True)
    x_TI = integers(TOKENS, INPUTS, seed=4).requires_grad_()
    factors = [f for layer in ours for f in (layer.tensors.a_RI, layer.tensors.b_OR)]
    grads = [integers(TOKENS, OUTPUTS, seed=seed) for seed in (2, 3, 4)]
    found = [(outs := lora_linears(x_TI, layers), torch.autograd.grad(outs, [x_TI, *factors], grads))
             for layers in (ours, theirs)]  # fmt: skip
    for one, other in zip(*[[*outs, *gradients] for outs, gradients in found], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_base_reads_the_rounded_input_and_the_adapter_the_input_itself():
    ours, theirs = layer_of(OUTPUTS, INPUTS, 1, 2.0)
    x_TI = torch.randn(TOKENS, INPUTS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (y_TO,) = lora_linears(x_TI, [ours])
    adapter_TO = 2.0 * x_TI @ ours.tensors.a_RI.T @ ours.tensors.b_OR.T
    torch.testing.assert_close(y_TO, fp8.round_rows(x_TI) @ theirs.tensors.weight_OI.T + adapter_TO)


def test_the_fused_feed_forward_layer_is_its_parts():
    gate, up = (layer_of(OUTPUTS, INPUTS, seed, 0.25)[0] for seed in (1, 2))
    down, _ = layer_of(INPUTS, OUTPUTS, 3, 0.25)
    x_TI = (integers(TOKENS, INPUTS, seed=4) / 64).requires_grad_()
    fused_TI = lora_mlp(x_TI, gate, up, down)
    (gate_TO,), (up_TO,) = lora_linears(x_TI, [gate]), lora_linears(x_TI, [up])
    (parts_TI,) = lora_linears(nn.functional.silu(gate_TO) * up_TO, [down])
    torch.testing.assert_close(fused_TI, parts_TI, rtol=1e-10, atol=1e-10)
    dy_TI = integers(TOKENS, INPUTS, seed=5)
    for layer in (gate, up, down):
        fused, parts = (torch.autograd.grad(y, layer.tensors.a_RI, dy_TI, retain_graph=True) for y in
                        (fused_TI, parts_TI))  # fmt: skip
        torch.testing.assert_close(fused, parts, rtol=1e-8, atol=1e-8)


def test_embedding_head_norms_and_what_is_named_keep_their_format():
    model = tiny_llama(torch.bfloat16)
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear and "lm_head" not in name]
    kept = [name for name in names if name[-6:] in ("q_proj", "k_proj", "v_proj")]
    layers = quantize_linears(model, device=CPU, dtype=torch.bfloat16, kept=kept)
    assert len(layers) == len(names) - len(kept) == 8
    assert all(type(model.get_submodule(name)) is (nn.Linear if name in kept else Fp8Linear) for name in names)
    assert type(model.get_output_embeddings()) is nn.Linear
    assert not any(p.requires_grad for layer in layers for p in layer.parameters())
    assert describe(model) == "float8 emulated in 8 linear layers: there are no float8 products on the device cpu"
    assert describe(model, num_kept=6).endswith(
        "on the device cpu; 6 linear layers are not rounded, which would cost more than 0.5% of the loss"
    )
    assert describe(tiny_llama()) is None


def test_bias_and_leading_shape_are_kept():
    linear = nn.Linear(INPUTS, OUTPUTS)
    weight = fp8.quantize_weight(linear.weight.detach(), is_real=False)
    layer = Fp8Linear(weight, linear.bias)
    x = torch.randn(2, 3, INPUTS)
    flat = fp8_linear(x.view(6, INPUTS), weight, linear.bias)
    torch.testing.assert_close(layer(x), flat.view(2, 3, OUTPUTS))


def hidden(model: nn.Module) -> Tensor:
    return model(IDS, use_cache=False).logits[0]


def test_peft_over_float8_layers_and_the_fused_functions_agree():
    """The model whole: values, and the gradients of every factor."""
    model = tiny_llama(torch.float64)
    quantize_linears(model, device=CPU, dtype=torch.float64)
    trainables = attach(model, LORA)
    perturb(trainables)
    found = []
    model.set_attn_implementation("eager")
    for is_fused in (False, True):
        if is_fused:
            reasons = select.install(model, adapter_name=ADAPTER_NAME, off={"norm", "rotary"})
            assert reasons["adapter"] == "fused function in 14 layers"
            assert reasons["qkv"] == reasons["mlp"] == "fused function in 2 blocks"
            model.set_attn_implementation("eager")
        logits = hidden(model)
        gradients = torch.autograd.grad(logits.logsumexp(-1).sum(), list(trainables.named.values()))
        found.append([logits.detach(), *gradients])
    select.uninstall(model)
    for one, other in zip(*found, strict=True):
        # 1e-8 of a norm, which the modules compute in float32, moves a few roundings to float8 across a tie
        assert float((one - other).norm() / other.norm()) < 1e-2


def test_a_step_over_the_base_is_near_the_step_over_the_unrounded_base():
    model = tiny_llama(torch.float32)
    exact = hidden(model).detach()
    quantize_linears(model, device=CPU, dtype=torch.float32)
    distance = float((hidden(model).detach() - exact).norm() / exact.norm())
    assert 1e-3 < distance < 0.15


@pytest.mark.parametrize("is_turned_too", [False, True])
def test_a_copy_of_the_model_computes_with_its_own_layers(is_turned_too):
    model = tiny_llama(torch.float32)
    quantize_linears(model, device=CPU, dtype=torch.float32, is_turned_too=is_turned_too)
    assert torch.equal(hidden(copy.deepcopy(model)), hidden(model))


def test_a_real_layer_is_adapted_in_float32(monkeypatch):
    """Its weight is bytes: PEFT must not take their format for the adapter's."""
    monkeypatch.setattr(fp8, "why_emulated", lambda device, dtype: None)
    model = tiny_llama(torch.bfloat16)
    layers = quantize_linears(model, device=CPU, dtype=torch.bfloat16, is_turned_too=True)
    assert all(layer.fp8_weight.is_real and layer.weight.dtype == torch.uint8 for layer in layers)
    trainables = attach(model, LORA)
    assert {p.dtype for p in trainables.named.values()} == {torch.float32}
    first = next(layer for layer in model.modules() if hasattr(layer, "lora_A"))
    assert lora_linear.why_not(first, ADAPTER_NAME, None) is None
    assert len(first.lora_A[ADAPTER_NAME].weight.unique()) > 200, "the start was rounded to float8"
