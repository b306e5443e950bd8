"""Packed weights give the products of torch's own layers, and the model is afterwards what it was."""

import pytest
import torch
from tiny import LORA, attach, tiny_llama
from torch import nn

from whet.kernels import packed_linear
from whet.kernels.packed_linear import PackedLinear, packed_linears

# of one product: a unit in the last place of sums of some ten numbers of size one
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_rows", [1, 3, 64])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_packed_layer_is_the_matrix_product(dtype, num_rows, has_bias):
    torch.manual_seed(0)
    linear = nn.Linear(96, 50, bias=has_bias).to(dtype)
    packed = PackedLinear(linear, 16, dtype)
    with torch.inference_mode():
        x = torch.randn(num_rows, 2, 96).to(dtype)
        expected = x.double() @ linear.weight.double().T + (linear.bias.double() if has_bias else 0)
        found = packed(x)
    assert found.dtype == dtype and found.shape == (num_rows, 2, 50)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=TOLERANCE[dtype])


def test_every_linear_layer_is_packed_inside_and_its_own_self_outside():
    model = tiny_llama(torch.float32)
    before = dict(model.named_modules())
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        expected = model(ids).logits
        with packed_linears(model, num_rows=4) as num_packed:
            inside = [name for name, module in model.named_modules() if type(module) is PackedLinear]
            torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)
    linears = [name for name, module in before.items() if type(module) is nn.Linear]
    assert sorted(inside) == sorted(linears) and num_packed == len(linears) > 7
    assert dict(model.named_modules()) == before
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_error_inside_leaves_the_model_as_it_was():
    model = tiny_llama(torch.float32)
    with pytest.raises(RuntimeError, match="inside"), packed_linears(model, num_rows=4):
        raise RuntimeError("inside")
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


def test_adapted_layers_are_left_alone():
    model = tiny_llama(torch.float32)
    attach(model, LORA)
    with packed_linears(model, num_rows=4) as num_packed:
        packed = [name for name, module in model.named_modules() if type(module) is PackedLinear]
    assert num_packed == len(packed) and not [name for name in packed if "lora" in name or "base_layer" in name]


@pytest.mark.parametrize("reason", ["float64", "no oneDNN", "too large"])
def test_what_cannot_or_should_not_be_packed_computes_as_before(monkeypatch, reason):
    model = tiny_llama(torch.float64 if reason == "float64" else torch.float32)
    if reason == "no oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    if reason == "too large":
        monkeypatch.setattr(packed_linear, "LARGEST_COPY_BYTES", 1000)
    with packed_linears(model, num_rows=4) as num_packed:
        assert num_packed == 0


def test_under_autocast_it_computes_in_the_narrow_format():
    linear = nn.Sequential(nn.Linear(32, 16, bias=False))
    x = torch.randn(5, 32)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = linear(x)
        with packed_linears(linear, num_rows=5):
            found = linear(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
