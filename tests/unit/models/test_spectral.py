"""Spectral refactoring against brute force on the full product, autograd, and the form with inverses."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import Linear, LoraConfig

from whet.models.spectral import MOMENT_FLOOR, product_distance, refactor, share_of_mean


def make_pair(num_out=50, num_in=40, rank=6, *, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(num_out, rank, generator=generator, dtype=torch.float64)
    a = torch.randn(rank, num_in, generator=generator, dtype=torch.float64)
    return (b * 0.05).to(dtype), a.to(dtype)


def with_singular_values(values, *, num_out=30, num_in=20):
    """A pair in general position whose product has these singular values."""
    rank = len(values)
    generator = torch.Generator().manual_seed(1)
    q_b, q_a, mix = (
        torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64)).Q
        for n in (num_out, num_in, rank)
    )
    root = torch.tensor(values, dtype=torch.float64).sqrt()
    return q_b @ (root[:, None] * mix), (mix.T * root) @ q_a.T


def far(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize(
    ("num_out", "num_in", "rank"), [(50, 40, 6), (8, 300, 8), (300, 8, 8), (5, 7, 1), (64, 64, 32)]
)
def test_exact_keeps_the_product_of_float32_factors_to_1e_6(num_out, num_in, rank):
    b, a = make_pair(num_out, num_in, rank, dtype=torch.float32)
    new = refactor(b, a)
    new_b, new_a = new.b_OR.float(), new.a_RI.float()
    assert far(new_b.double() @ new_a.double(), b.double() @ a.double()) < 1e-6
    assert far(new.b_OR @ new.a_RI, b.double() @ a.double()) < 1e-14
    if rank > 1:
        assert far(new_b, b) > 0.1


def test_both_factors_share_the_singular_values_evenly():
    b, a = make_pair()
    new = refactor(b, a)
    expected = torch.diag(torch.linalg.svdvals(b @ a)[:6])
    assert far(new.b_OR.T @ new.b_OR, expected) < 1e-13
    assert far(new.a_RI @ new.a_RI.T, expected) < 1e-13


def test_refactoring_twice_changes_nothing_more():
    once = refactor(*make_pair())
    twice = refactor(once.b_OR, once.a_RI)
    assert far(twice.b_OR.abs(), once.b_OR.abs()) < 1e-12
    assert far(twice.b_moments_RR.abs(), torch.eye(6)) < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_gradients_go_to_the_new_coordinates_as_autograd_says(seed):
    """A random loss of BA, differentiated with respect to the old and to the new factors."""
    b, a = make_pair(seed=seed)
    weights = torch.randn(50, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    new = refactor(b, a)

    def gradients(b, a):
        b, a = b.clone().requires_grad_(), a.clone().requires_grad_()
        return torch.autograd.grad((torch.sin(b @ a + weights) * weights).sum(), (b, a))

    old_grad_b, old_grad_a = gradients(b, a)
    grad_b, grad_a = gradients(new.b_OR, new.a_RI)
    assert far(old_grad_b @ new.b_moments_RR, grad_b) < 1e-12
    assert far(new.a_moments_RR @ old_grad_a, grad_a) < 1e-12
    assert far(old_grad_b, grad_b) > 0.5


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_balanced_is_the_svd_of_the_product_with_other_singular_values(share):
    b, a = make_pair()
    new = refactor(b, a, share_of_mean=share)
    u, s, vh = torch.linalg.svd(b @ a, full_matrices=False)
    s = s[:6]
    expected = u[:, :6] @ torch.diag((1 - share) * s + share * s.mean()) @ vh[:6]
    assert far(new.b_OR @ new.a_RI, expected) < 1e-12
    # the gradient G of the loss with respect to BA, taken as it was: g_B' = G A'^T, g_A' = B'^T G
    gradient = torch.randn(50, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert far(gradient @ a.T @ new.b_moments_RR, gradient @ new.a_RI.T) < 1e-12
    assert far(new.a_moments_RR @ b.T @ gradient, new.b_OR.T @ gradient) < 1e-12


@pytest.mark.parametrize("share", [0.0, 0.85])
def test_it_is_the_form_with_inverses_where_that_exists(share):
    """lora-ns: T_B = R_B^-1 U S~^1/2, T_A = S~^1/2 V^T R_A^-T."""
    b, a = make_pair()
    r_b, r_a = torch.linalg.qr(b).R, torch.linalg.qr(a.T).R
    u, s, vh = torch.linalg.svd(r_b @ r_a.T)
    root = torch.diag(((1 - share) * s + share * s.mean()).sqrt())
    t_b, t_a = torch.linalg.inv(r_b) @ u @ root, root @ vh @ torch.linalg.inv(r_a).T
    new = refactor(b, a, share_of_mean=share)
    assert far(new.b_OR, b @ t_b) < 1e-11 and far(new.a_RI, t_a @ a) < 1e-11
    assert far(new.b_moments_RR, t_a.T) < 1e-11 and far(new.a_moments_RR, t_b.T) < 1e-11


def _zero_column(b, a):
    b[:, 2] = 0
    return b, a


def _repeated_row(b, a):
    a[3] = a[1]
    return b, a


def _product_that_is_rounding(b, a):
    """As in an orthogonal start: neither factor is small, their product is nothing but rounding."""
    q = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    return (b @ q[:6]).float(), (q[6:].T @ a).float()


@pytest.mark.parametrize("share", [0.0, 0.8])
@pytest.mark.parametrize(
    "degrade",
    [
        lambda b, a: (0 * b, a),
        lambda b, a: (b, 0 * a),
        lambda b, a: (0 * b, 0 * a),
        _zero_column,
        _repeated_row,
        _product_that_is_rounding,
        lambda b, a: (b[:3], a),
        lambda b, a: (b, a[:, :3]),
    ],
    ids=[
        "B zero",
        "A zero",
        "both zero",
        "column of zeros",
        "repeated row",
        "rounding",
        "fewer outputs",
        "fewer inputs",
    ],
)
def test_a_product_without_full_rank_is_left_alone(degrade, share):
    assert refactor(*degrade(*make_pair()), share_of_mean=share) is None


@pytest.mark.parametrize("share", [0.0, 0.8])
def test_a_nearly_lost_direction_stays_finite_and_its_moments_bounded(share):
    b, a = with_singular_values([1.0, 0.5, 1e-5])
    new = refactor(b, a, share_of_mean=share)
    assert all(t.isfinite().all() for t in (new.b_OR, new.a_RI, new.b_moments_RR, new.a_moments_RR))
    bound = (torch.linalg.matrix_norm(b, 2) / MOMENT_FLOOR) if share else MOMENT_FLOOR**-0.5
    assert torch.linalg.matrix_norm(new.b_moments_RR, 2) <= bound
    if not share:
        assert far(new.b_OR @ new.a_RI, b @ a) < 1e-14


@pytest.mark.parametrize("size", [0.3, 1e-7])
def test_the_distance_of_products_equals_that_of_the_full_matrices(size):
    b, a = make_pair(rank=5)
    generator = torch.Generator().manual_seed(8)
    other_b = b * (1 + size * torch.randn(b.shape, generator=generator, dtype=torch.float64))
    other_a = a * (1 + size * torch.randn(a.shape, generator=generator, dtype=torch.float64))
    expected = far(other_b @ other_a, b @ a)
    assert product_distance(b, a, other_b, other_a) == pytest.approx(expected, rel=1e-6)


def test_nothing_is_drawn_at_random_and_the_same_comes_out_again():
    before = torch.get_rng_state()
    first, second = refactor(*make_pair()), refactor(*make_pair())
    assert torch.equal(first.b_OR, second.b_OR) and torch.equal(first.a_RI, second.a_RI)
    assert torch.equal(torch.get_rng_state(), before)


def test_lambda_rises_from_its_start_to_one():
    assert share_of_mean(100, 100, 0.8) == 1.0
    assert [share_of_mean(t, 10, 0.5) for t in (1, 5)] == pytest.approx([0.55, 0.75])


def test_dora_computes_the_same_after_an_exact_refactoring():
    """The lengths of the columns of W + sBA depend on the product alone."""
    torch.manual_seed(0)
    base = torch.nn.Linear(40, 50).double()
    config = LoraConfig(r=6, lora_alpha=12, use_dora=True, init_lora_weights=False)
    layer = Linear(base, "default", config, r=6, lora_alpha=12).double()
    x = torch.randn(3, 40, dtype=torch.float64)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b *= 30
        before = layer(x)
        new = refactor(b, a)
        b.copy_(new.b_OR)
        a.copy_(new.a_RI)
        assert far(layer(x), before) < 1e-12
        assert far(layer(x), base(x)) > 0.1
