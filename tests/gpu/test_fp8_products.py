"""Real float8 products on a GPU are the emulated ones, up to the order of sums and the rounding of bfloat16."""

from __future__ import annotations

import pytest
import torch
from tiny import LORA, attach, perturb, tiny_llama
from torch import Tensor

from whet.kernels import fp8, select
from whet.kernels.fp8_linear import describe, quantize_linears
from whet.models.adapters import ADAPTER_NAME

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
IDS = torch.arange(3, 62)[None]
# tokens, inputs, outputs: one token, odd numbers of them, Llama-3.1-8B's keys and its feed-forward layer
SIZES = ((1, 64, 48), (17, 64, 48), (37, 4096, 1024), (1003, 4096, 14336))


@pytest.fixture(autouse=True)
def needs_float8_products():
    if reason := fp8.why_emulated(CUDA, torch.bfloat16):
        pytest.skip(f"needs a CUDA device with float8 products: {reason}")


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator(CUDA).manual_seed(seed)
    x = torch.randn(*shape, generator=generator, device=CUDA)
    return (x * 1.7 ** (torch.arange(shape[-1], device=CUDA) % 7)).bfloat16()


def near(found: Tensor, expected: Tensor) -> None:
    """One rounding to bfloat16 of a sum in float32."""
    torch.testing.assert_close(
        found.double(), expected, rtol=2.0**-8, atol=1e-5 * float(expected.abs().max())
    )  # fmt: skip


@pytest.mark.parametrize("is_turned_too", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_both_products_are_those_of_the_rounded_numbers(sizes, is_turned_too):
    num_tokens, num_inputs, num_outputs = sizes
    x_TI, weight_OI = draw(num_tokens, num_inputs, seed=0), draw(num_outputs, num_inputs, seed=1)
    bias_O, dy_TO = draw(num_outputs, seed=2), draw(num_tokens, num_outputs, seed=3)
    real = fp8.quantize_weight(weight_OI, is_real=True, is_turned_too=is_turned_too)
    emulated = fp8.quantize_weight(weight_OI, is_real=False)
    exact_OI = emulated.values_OI.double()
    expected_TO = fp8.round_rows(x_TI).double() @ exact_OI.T + bias_O.double()
    expected_TI = fp8.round_rows(dy_TO, real.scale_O1.view(-1)).double() @ exact_OI
    for weight in (real, emulated):
        near(fp8.outputs([weight], [bias_O], x_TI)[0], expected_TO)
        near(fp8.input_gradient([weight], [dy_TO]), expected_TI)


def test_layers_whose_sizes_do_not_fit_are_emulated_and_named():
    model = tiny_llama(torch.bfloat16).to(CUDA)
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(64, 100, bias=False, device=CUDA, dtype=torch.bfloat16)
    quantize_linears(model, device=CUDA, dtype=torch.bfloat16)
    said = describe(model)
    assert said.startswith("float8 (e4m3, scales per row) in 7 linear layers")
    assert said.endswith("float8 emulated in 1 linear layers: 100 x 64 is no multiple of 16")


def step_of(is_real: bool, monkeypatch) -> list[Tensor]:
    """Logits, and the gradients of all factors, of one adapted model in the fused functions."""
    model = tiny_llama(torch.bfloat16)
    with monkeypatch.context() as patched:
        if not is_real:
            patched.setattr(fp8, "why_emulated", lambda device, dtype: "for comparison")
        layers = quantize_linears(model, device=CUDA, dtype=torch.bfloat16, is_turned_too=True)
    assert all(layer.fp8_weight.is_real is is_real for layer in layers)
    model.to(CUDA)
    trainables = attach(model, LORA)
    perturb(trainables)
    assert select.install(model, adapter_name=ADAPTER_NAME)["adapter"] == "fused function in 14 layers"
    model.set_attn_implementation("eager")
    logits = model(IDS.to(CUDA), use_cache=False).logits[0].float()
    return [logits, *torch.autograd.grad(logits.logsumexp(-1).sum(), list(trainables.named.values()))]


def test_a_model_has_the_values_and_gradients_of_the_emulation(monkeypatch):
    for real, emulated in zip(step_of(True, monkeypatch), step_of(False, monkeypatch), strict=True):
        # bfloat16 rounds sums of another order another way, and that moves numbers across ties of float8
        assert float((real - emulated).norm() / emulated.norm()) < 0.05
