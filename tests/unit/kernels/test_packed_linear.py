"""Products over packed weights are torch's own, and where they cannot be had the layers compute as they are."""

import pytest
import torch
from torch import nn

from whet.kernels import packed_linear
from whet.kernels.packed_linear import products

# of one product: rounding of sums of a hundred numbers of size one
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05}


def _linear(dtype, has_bias=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(96, 50, bias=has_bias).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_rows", [1, 3, 64])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_packed_product_is_the_matrix_product(dtype, num_rows, has_bias):
    linear = _linear(dtype, has_bias)
    (product,) = products([[linear]], num_rows=16, is_packed=True)
    assert isinstance(product, packed_linear._Packed)
    with torch.inference_mode():
        x = torch.randn(num_rows, 2, 96, generator=torch.Generator().manual_seed(1)).to(dtype)
        expected = x.double() @ linear.weight.double().T + (linear.bias.double() if has_bias else 0)
        found = product(x)
    assert found.dtype == dtype and found.shape == (num_rows, 2, 50)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("reason", ["float64", "no oneDNN", "too large"])
def test_what_cannot_or_should_not_be_packed_computes_as_it_is(monkeypatch, reason):
    if reason == "no oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    if reason == "too large":
        monkeypatch.setattr(packed_linear, "LARGEST_COPY_BYTES", 1000)
    linear = _linear(torch.float64 if reason == "float64" else torch.float32)
    (product,) = products([[linear]], num_rows=4, is_packed=True)
    assert isinstance(product, packed_linear._Plain)


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_layers_side_by_side_and_what_follows_them_is_what_torch_makes_of_it(is_packed, has_bias):
    first, second = _linear(torch.float32, has_bias), _linear(torch.float32)
    with torch.inference_mode():
        x, other = torch.randn(4, 96), torch.randn(4, 100)
        joined = torch.cat([first(x), second(x)], dim=-1)
        (product,) = products([[first, second]], num_rows=4, is_packed=is_packed)
        for found, expected in (
            (product(x), joined),
            (product.silu(x), nn.functional.silu(joined)),
            (product.times(x, other), joined * other),
            (product.plus(x, other), joined + other),
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
