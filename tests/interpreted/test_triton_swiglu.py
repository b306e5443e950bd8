import pytest
import torch
from kernel_cases import DTYPES, ROWS, compare, draw, gradients

from whet.kernels import reference
from whet.kernels.swiglu import backward_into, swiglu


def _fused(gate, up):
    return (swiglu(gate, up),)


def _textbook(gate, up):
    return (reference.swiglu(gate, up),)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ROWS)
def test_values_and_gradients_equal_the_reference(shape, dtype, monkeypatch):
    gate, up, dh = (draw(*shape, dtype=dtype, seed=seed) for seed in range(3))
    compare(_fused, _textbook, [gate, up], [dh], monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ROWS)
def test_the_backward_pass_by_hand_has_the_bits_of_the_function_and_keeps_gate_and_up(shape, dtype):
    gate, up, dh = (draw(*shape, dtype=dtype, seed=seed) for seed in range(3))
    before = gate.clone(), up.clone()
    expected = gradients(_fused, [gate, up], [dh])
    given = dh.clone()
    results = backward_into(given, gate, up)
    assert all(torch.equal(got, want) for got, want in zip(results, expected, strict=True))
    assert torch.equal(gate, before[0]) and torch.equal(up, before[1])
    assert results[1].data_ptr() == given.data_ptr(), "dgate takes the memory of dh"


def test_halves_of_one_product_are_read_in_place_and_gradients_at_any_stride(monkeypatch):
    both = draw(6, 20, dtype=torch.float32)
    dh = draw(10, 6, dtype=torch.float32, seed=1).T
    compare(_fused, _textbook, [both[:, :10], both[:, 10:]], [dh], monkeypatch)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # the interpreter's; 1 / inf is 0
def test_far_from_zero_nothing_overflows():
    gate = torch.tensor([[-1e4, -100.0, 0.0, 100.0, 1e4]])
    h, dgate, dup = gradients(_fused, [gate, torch.ones(1, 5)], [torch.ones(1, 5)])
    torch.testing.assert_close(h, torch.tensor([[0.0, 0.0, 0.0, 100.0, 1e4]]))
    torch.testing.assert_close(dgate, torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0]]))
    torch.testing.assert_close(dup, h)
