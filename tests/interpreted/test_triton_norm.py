import pytest
import torch
from kernel_cases import DTYPES, EPS, ROWS, add_and_norm, compare, draw, gradients

from whet.kernels import norm, reference, triton_norm


def _norm(x, weight_E):
    return (norm.rms_norm(x, weight_E, EPS),)


def _textbook(x, weight_E):
    return (reference.rms_norm(x, weight_E, EPS),)


def _add_norm(x, residual, weight_E):
    return norm.add_rms_norm(x, residual, weight_E, EPS)


def _weight(num_columns, dtype):
    return draw(num_columns, dtype=dtype, seed=9).abs() + 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ROWS)
def test_values_and_gradients_equal_the_reference(shape, dtype, monkeypatch):
    inputs = draw(*shape, dtype=dtype), _weight(shape[-1], dtype)
    compare(_norm, _textbook, inputs, [draw(*shape, dtype=dtype, seed=1)], monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ROWS)
def test_the_sum_with_a_residual_and_its_norm_equal_the_reference(shape, dtype, monkeypatch):
    x, residual, dh, dy = (draw(*shape, dtype=dtype, seed=seed) for seed in range(4))
    compare(_add_norm, add_and_norm, [x, residual, _weight(shape[-1], dtype)], [dh, dy], monkeypatch)


def test_the_gradient_of_the_weight_has_every_row():
    """Each row alone makes one entry: a row that is left out, or taken twice, is seen."""
    num_rows = 3 * triton_norm.ROWS_PER_PROGRAM + 5
    x = torch.eye(num_rows)
    _, _, grad_E = gradients(_norm, [x, torch.ones(num_rows)], [torch.ones(num_rows, num_rows)])
    torch.testing.assert_close(grad_E, torch.full((num_rows,), (1 / num_rows + EPS) ** -0.5))


def test_rows_at_a_distance_and_columns_that_are_not_side_by_side_are_right(monkeypatch):
    wide = draw(6, 20, dtype=torch.float32)
    dy = draw(10, 6, dtype=torch.float32, seed=1).T
    for x in (wide[:, 4:14], draw(10, 6, dtype=torch.float32).T):
        compare(_norm, _textbook, [x, _weight(10, torch.float32)], [dy], monkeypatch)
        inputs = x, wide[:, 10:], _weight(10, torch.float32)
        compare(_add_norm, add_and_norm, inputs, [dy, wide[:, :10]], monkeypatch)


def test_a_bfloat16_part_is_added_to_a_float32_stream_as_torch_does(monkeypatch):
    """As under autocast."""
    x, residual = draw(5, 24, dtype=torch.bfloat16), draw(5, 24, dtype=torch.float32, seed=1)
    grads = [draw(5, 24, dtype=torch.float32, seed=seed) for seed in (2, 3)]
    compare(_add_norm, add_and_norm, [x, residual, _weight(24, torch.float32)], grads, monkeypatch)
    h, y = _add_norm(x, residual, _weight(24, torch.float32))
    assert h.dtype == y.dtype == torch.float32


def test_the_weight_may_be_wider_than_the_input():
    y = norm.rms_norm(draw(4, 16, dtype=torch.bfloat16), torch.ones(16), EPS)
    assert y.dtype == torch.float32


def test_a_row_of_zeros_has_the_gradient_that_eps_allows():
    (_, grad, _) = gradients(_norm, [torch.zeros(1, 4), torch.ones(4)], [torch.ones(1, 4)])
    torch.testing.assert_close(grad, torch.full((1, 4), EPS**-0.5))


def test_a_frozen_weight_gets_no_gradient_and_its_parts_no_memory(monkeypatch):
    seen = []
    backward = triton_norm.backward
    monkeypatch.setattr(triton_norm, "backward", lambda *a, **k: seen.append(backward(*a, **k)) or seen[-1])
    x = draw(5, 8, dtype=torch.float32).requires_grad_()
    norm.rms_norm(x, torch.ones(8), EPS).sum().backward()
    assert x.grad is not None and seen[0][1] is None


def test_kept_are_the_input_the_weight_and_one_number_per_token():
    kept = []
    x = draw(7, 24, dtype=torch.bfloat16).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append((t.shape, t.dtype)) or t, lambda t: t):
        norm.rms_norm(x, _weight(24, torch.bfloat16), EPS)
    assert kept == [((7, 24), torch.bfloat16), ((7, 1), torch.float32), ((24,), torch.bfloat16)]
