import pytest
import torch
from torch import nn

from whet.optim.clip import clip_gradients


def _parameters(dtype):
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((300, 20), (7,), (3, 4))]
    for parameter in parameters[:2]:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)
    return parameters


def _norm(parameters):
    return torch.cat([p.grad.double().reshape(-1) for p in parameters if p.grad is not None]).norm().item()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)])
def test_the_norm_is_that_of_all_gradients_before(dtype, tolerance):
    parameters = _parameters(dtype)
    before = _norm(parameters)
    assert clip_gradients(parameters, 0.5).item() == pytest.approx(before, rel=tolerance)
    # bfloat16 rounds each gradient once more: to either side, so the norm keeps more than 8 bits
    assert _norm(parameters) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_norm", [0.0, 1e6])
def test_gradients_within_the_limit_keep_their_bits(dtype, max_norm):
    parameters = _parameters(dtype)
    before = [None if p.grad is None else p.grad.clone() for p in parameters]
    assert clip_gradients(parameters, max_norm).item() > 1
    assert all(p.grad is None if b is None else torch.equal(p.grad, b) for p, b in zip(parameters, before, strict=True))


def test_a_gradient_that_is_not_finite_makes_the_norm_so():
    parameters = _parameters(torch.bfloat16)
    parameters[0].grad[0, 0] = torch.inf
    assert not torch.isfinite(clip_gradients(parameters, 1.0))
