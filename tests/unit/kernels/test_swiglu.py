import pytest
import torch

from whet.kernels import reference
from whet.kernels.swiglu import backward_into, swiglu

SHAPES = [(1, 3), (7, 16), (2, 5, 9)]


def _inputs(shape, dtype=torch.float64):
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def _with_gradients(function, gate, up, dh):
    gate, up = gate.detach().clone().requires_grad_(), up.detach().clone().requires_grad_()
    h = function(gate, up)
    return [h.detach(), *torch.autograd.grad(h, (gate, up), dh)]


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_equal_the_reference(shape):
    inputs = _inputs(shape)
    expected = _with_gradients(reference.swiglu, *inputs)
    for got, want in zip(_with_gradients(swiglu, *inputs), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_backward_pass_by_hand_equals_the_reference_and_keeps_gate_and_up(shape):
    gate, up, dh = _inputs(shape)
    expected = _with_gradients(reference.swiglu, gate, up, dh)
    before = gate.clone(), up.clone()
    given = dh.clone()
    results = backward_into(given, gate, up)
    for got, want in zip(results, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert torch.equal(gate, before[0]) and torch.equal(up, before[1])
    assert results[1].data_ptr() == given.data_ptr(), "dgate takes the memory of dh"


def test_gradients_equal_finite_differences():
    gate_TF, up_TF, _ = _inputs((3, 4))
    assert torch.autograd.gradcheck(swiglu, (gate_TF.requires_grad_(), up_TF.requires_grad_()))


def test_values_have_the_bits_of_transformers_and_gradients_no_larger_an_error():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    act = LlamaMLP(LlamaConfig(hidden_size=4, num_attention_heads=1, intermediate_size=4)).act_fn
    gate_TF, up_TF, dh_TF = _inputs((100, 33), torch.bfloat16)
    ours = _with_gradients(swiglu, gate_TF, up_TF, dh_TF)
    theirs = _with_gradients(lambda gate, up: act(gate) * up, gate_TF, up_TF, dh_TF)
    truth = _with_gradients(reference.swiglu, gate_TF.double(), up_TF.double(), dh_TF.double())
    assert torch.equal(ours[0], theirs[0])
    for got, want, true in zip(ours, theirs, truth, strict=True):
        assert (got.double() - true).norm() <= (want.double() - true).norm()
    by_hand = backward_into(dh_TF.clone(), gate_TF, up_TF)
    assert all(torch.equal(a, b) for a, b in zip(by_hand, ours, strict=True))


def test_strided_halves_of_one_product_are_read_in_place_and_left_alone():
    both_TF, _, _ = _inputs((6, 20))
    gate_TF, up_TF = both_TF[:, :10], both_TF[:, 10:]
    dh_TF = torch.ones(6, 10, dtype=torch.float64)
    before = both_TF.clone()
    leaves = gate_TF.detach().requires_grad_(), up_TF.detach().requires_grad_()
    got = torch.autograd.grad(swiglu(*leaves), leaves, dh_TF)
    _, *want = _with_gradients(reference.swiglu, gate_TF, up_TF, dh_TF)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert torch.equal(both_TF, before)


def test_kept_are_gate_and_up_alone():
    gate_TF, up_TF, _ = _inputs((5, 8))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        swiglu(gate_TF.requires_grad_(), up_TF.requires_grad_())
    assert kept == [gate_TF.data_ptr(), up_TF.data_ptr()]
