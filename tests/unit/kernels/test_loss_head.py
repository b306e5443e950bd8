import pytest
import torch

from whet.kernels import loss_head, reference
from whet.kernels.loss_head import count_correct, linear_nll_sum

VOCAB, HIDDEN = 37, 11


def _inputs(num_rows, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(num_rows)
    hidden_NE = torch.randn(num_rows, HIDDEN, generator=generator, dtype=dtype, requires_grad=True)
    weight_VE = torch.randn(VOCAB, HIDDEN, generator=generator, dtype=dtype, requires_grad=True)
    return hidden_NE, weight_VE, torch.randint(0, VOCAB, (num_rows,), generator=generator)


# around the borders of chunks of 8
@pytest.mark.parametrize("num_rows", [1, 7, 8, 9, 16, 31])
def test_value_and_all_gradients_equal_the_reference(monkeypatch, num_rows):
    monkeypatch.setattr(loss_head, "ROWS_PER_CHUNK", 8)
    hidden_NE, weight_VE, labels_N = _inputs(num_rows)
    nll = linear_nll_sum(hidden_NE, weight_VE, labels_N, dtype=torch.float64)
    expected = reference.nll_sum(hidden_NE, weight_VE, labels_N)
    torch.testing.assert_close(nll, expected, rtol=1e-12, atol=0)
    # scaled as the loop scales it: by the taught tokens of the whole step
    grads = torch.autograd.grad(nll / 13, [hidden_NE, weight_VE])
    expected_grads = torch.autograd.grad(expected / 13, [hidden_NE, weight_VE])
    for grad, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-10, atol=1e-13)


def test_gradients_equal_finite_differences(monkeypatch):
    monkeypatch.setattr(loss_head, "ROWS_PER_CHUNK", 3)
    hidden_NE, weight_VE, labels_N = _inputs(5)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_nll_sum(h, w, labels_N, dtype=torch.float64), (hidden_NE, weight_VE)
    )


@pytest.mark.parametrize("trains_head", [True, False])
@pytest.mark.parametrize("trains_hidden", [True, False])
def test_only_the_gradients_that_are_needed_are_made(trains_head, trains_hidden):
    hidden_NE, weight_VE, labels_N = _inputs(9)
    hidden_NE.requires_grad_(trains_hidden)
    weight_VE.requires_grad_(trains_head)
    nll = linear_nll_sum(hidden_NE, weight_VE, labels_N, dtype=torch.float64)
    assert nll.requires_grad == (trains_head or trains_hidden)
    if nll.requires_grad:
        nll.backward()
    assert (hidden_NE.grad is not None) == trains_hidden
    assert (weight_VE.grad is not None) == trains_head


def test_no_taught_position_gives_zero_and_zero_gradients():
    hidden_NE, weight_VE, labels_N = _inputs(0)
    nll = linear_nll_sum(hidden_NE, weight_VE, labels_N, dtype=torch.float64)
    nll.backward()
    assert nll.item() == 0.0
    assert not weight_VE.grad.any() and hidden_NE.grad.shape == (0, HIDDEN)


def test_huge_logits_do_not_overflow():
    hidden_NE, weight_VE, labels_N = _inputs(4, dtype=torch.float32)
    nll = linear_nll_sum(hidden_NE * 1e4, weight_VE, labels_N, dtype=torch.float32)
    expected = reference.nll_sum(hidden_NE.double() * 1e4, weight_VE.double(), labels_N)
    torch.testing.assert_close(nll.double(), expected, rtol=1e-5, atol=0)


def test_bfloat16_products_are_summed_in_float32_and_gradients_keep_their_own_dtype():
    hidden_NE, weight_VE, labels_N = _inputs(600, dtype=torch.float32)
    hidden_NE = hidden_NE.detach().to(torch.bfloat16).requires_grad_()
    nll = linear_nll_sum(hidden_NE, weight_VE, labels_N, dtype=torch.bfloat16)
    nll.backward()
    assert nll.dtype == torch.float32
    assert hidden_NE.grad.dtype == torch.bfloat16 and weight_VE.grad.dtype == torch.float32
    exact = reference.nll_sum(hidden_NE.double(), weight_VE.double(), labels_N)
    # 8 bits of mantissa per logit: 0.4 % each, averaging out over 600 of them
    assert abs(nll.item() / exact.item() - 1) < 2e-3


def test_correct_tokens_are_those_whose_label_is_the_arg_max(monkeypatch):
    monkeypatch.setattr(loss_head, "ROWS_PER_CHUNK", 8)
    hidden_NE, weight_VE, labels_N = _inputs(29)
    best_N = (hidden_NE @ weight_VE.T).argmax(-1)
    labels_N[::2] = best_N[::2]
    expected = int((best_N == labels_N).sum())
    assert count_correct(hidden_NE, weight_VE, labels_N, dtype=torch.float64) == expected


@pytest.mark.parametrize("num_rows", [0, 1, 8, 9, 31])
def test_each_positions_value_and_hit_are_those_of_full_logits(monkeypatch, num_rows):
    monkeypatch.setattr(loss_head, "ROWS_PER_CHUNK", 8)
    hidden_NE, weight_VE, labels_N = _inputs(num_rows)
    logits_NV = (hidden_NE @ weight_VE.T).detach()
    labels_N[::2] = logits_NV[::2].argmax(-1)
    nll_N, correct_N = loss_head.nll_and_correct(hidden_NE, weight_VE, labels_N, dtype=torch.float64)
    torch.testing.assert_close(nll_N, torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="none"))
    assert correct_N.tolist() == (logits_NV.argmax(-1) == labels_N).tolist()
