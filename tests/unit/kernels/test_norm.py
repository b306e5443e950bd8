import copy

import pytest
import torch
from tiny import tiny_llama
from torch import nn

from whet.kernels import norm, reference

EPS = 1e-2  # large, so that a forgotten eps shows
SHAPES = [(1, 8), (7, 24), (2, 5, 48), (33, 1)]


def _inputs(shape, dtype=torch.float64, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, dy = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    weight_E = torch.rand(shape[-1], generator=generator, dtype=torch.float64) + 0.5
    return [t.to(dtype) for t in (x, weight_E, dy)]


def _with_gradients(function, x, weight_E, dy):
    x, weight_E = x.detach().clone().requires_grad_(), weight_E.detach().clone().requires_grad_()
    y = function(x, weight_E, EPS)
    return [y.detach(), *torch.autograd.grad(y, (x, weight_E), dy)]


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_equal_the_reference(shape):
    inputs = _inputs(shape)
    expected = _with_gradients(reference.rms_norm, *inputs)
    for got, want in zip(_with_gradients(norm.rms_norm, *inputs), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_gradients_equal_finite_differences():
    x_TE, weight_E, _ = _inputs((3, 6))
    x_TE, weight_E = x_TE.requires_grad_(), weight_E.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: norm.rms_norm(x, w, EPS), (x_TE, weight_E))


def test_a_row_of_zeros_has_the_gradient_that_eps_allows():
    weight_E = torch.ones(4, dtype=torch.float64)
    x_TE = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(norm.rms_norm(x_TE, weight_E, EPS).sum(), x_TE)
    torch.testing.assert_close(grad, torch.full((1, 4), EPS**-0.5, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden", [64, 80])  # the root of 80 has no exact bfloat16
def test_values_have_the_bits_of_transformers_and_gradients_no_larger_an_error(dtype, hidden):
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    x_TE, weight_E, dy_TE = _inputs((50, hidden), dtype)
    module = LlamaRMSNorm(hidden, EPS).to(dtype)

    def theirs(x, weight, eps):
        return torch.func.functional_call(module, {"weight": weight}, (x,))

    ours = _with_gradients(norm.rms_norm, x_TE, weight_E, dy_TE)
    expected = _with_gradients(theirs, x_TE, weight_E, dy_TE)
    truth = _with_gradients(reference.rms_norm, *(t.double() for t in (x_TE, weight_E, dy_TE)))
    if dtype == torch.bfloat16:
        assert torch.equal(ours[0], expected[0])
    for got, want, true in zip(ours, expected, truth, strict=True):
        # 2 % for the luck of roundings
        assert (got.double() - true).norm() <= 1.02 * (want.double() - true).norm() + 1e-7 * true.norm()


def test_float16_has_no_kernel_and_is_right_all_the_same():
    inputs = _inputs((20, 48), torch.float16)
    expected = _with_gradients(reference.rms_norm, *(t.double() for t in inputs))
    for got, want in zip(_with_gradients(norm.rms_norm, *inputs), expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=5e-3, atol=5e-3)


def test_the_weight_may_be_wider_than_the_input():
    x_TE, weight_E, dy_TE = _inputs((9, 16), torch.bfloat16)
    y_TE, grad_x, grad_weight = _with_gradients(norm.rms_norm, x_TE, weight_E.float(), dy_TE.float())
    assert (y_TE.dtype, grad_x.dtype, grad_weight.dtype) == (torch.float32, torch.bfloat16, torch.float32)


def test_strided_inputs_are_right():
    wide_TE, weight_E, dy_TE = _inputs((6, 20))
    x_TE = wide_TE[:, 4:14].clone().requires_grad_()
    view_TE = wide_TE.detach()[:, 4:14].requires_grad_()
    got = torch.autograd.grad(norm.rms_norm(view_TE, weight_E[4:14], EPS), view_TE, dy_TE[:, 4:14])
    want = torch.autograd.grad(reference.rms_norm(x_TE, weight_E[4:14], EPS), x_TE, dy_TE[:, 4:14])
    torch.testing.assert_close(got, want)


def test_kept_are_the_input_the_weight_and_one_number_per_token():
    x_TE, weight_E, _ = _inputs((7, 24), torch.bfloat16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append((t.shape, t.dtype)) or t, lambda t: t):
        norm.rms_norm(x_TE.requires_grad_(), weight_E, EPS)
    assert kept == [((7, 24), torch.bfloat16), ((7, 1), torch.float32), ((24,), torch.bfloat16)]


def test_every_norm_of_this_instance_changes_and_changes_back():
    model, other = tiny_llama(torch.float32), tiny_llama(torch.float32)
    ids = torch.arange(12)[None]
    before = model(ids, use_cache=False).logits
    assert norm.install(model) == (5, [])
    assert "forward" in vars(model.model.norm) and "forward" not in vars(other.model.norm)
    torch.testing.assert_close(model(ids, use_cache=False).logits, before)
    norm.uninstall(model)
    assert torch.equal(model(ids, use_cache=False).logits, before)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_copy_of_the_model_uses_its_own_weights():
    model = tiny_llama(torch.float32)
    norm.install(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.model.norm.weight.zero_()
    x = torch.ones(1, 3, 64)
    assert model.model.norm(x).any() and not twin.model.norm(x).any()


class OneMoreRMSNorm(nn.Module):
    """Gemma's kind: the weight counts from one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.variance_epsilon = EPS

    def forward(self, x):
        return reference.rms_norm(x, self.weight + 1, self.variance_epsilon)


def test_norms_that_compute_something_else_stay_and_are_told():
    model = nn.ModuleDict({"gemma": OneMoreRMSNorm(), "torch": nn.RMSNorm(4), "layer": nn.LayerNorm(4)})
    num_changed, reasons = norm.install(model)
    assert num_changed == 0
    assert reasons == [
        "gemma: a OneMoreRMSNorm computes something else",
        "torch: a RMSNorm has no weight and variance_epsilon",
    ]
    assert not any("forward" in vars(module) for module in model.modules())
