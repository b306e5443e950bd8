import pytest
import torch
from kernel_cases import DTYPES, HEADS, compare, draw

from whet.kernels import reference
from whet.kernels.rotary import rotate_both


def _angles(num_tokens, head_dim, dtype):
    # the two halves differ, as they do not in Llama: a half taken for the other then shows
    return [draw(num_tokens, head_dim, dtype=dtype, seed=seed) for seed in (7, 8)]


def _compare(q, k, cos_TD, sin_TD, dq, dk, monkeypatch):
    wide = [each.double() for each in (cos_TD, sin_TD)]
    compare(
        lambda q, k: rotate_both(q, k, cos_TD, sin_TD),
        lambda q, k: (reference.rotate(q, *wide), reference.rotate(k, *wide)),
        [q, k], [dq, dk], monkeypatch,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_tokens", "num_q_heads", "num_k_heads", "head_dim"), HEADS)
def test_queries_and_keys_and_their_gradients_equal_the_reference(
    num_tokens, num_q_heads, num_k_heads, head_dim, dtype, monkeypatch
):
    q, dq = (draw(num_tokens, num_q_heads, head_dim, dtype=dtype, seed=seed) for seed in (0, 1))
    k, dk = (draw(num_tokens, num_k_heads, head_dim, dtype=dtype, seed=seed) for seed in (2, 3))
    _compare(q, k, *_angles(num_tokens, head_dim, dtype), dq, dk, monkeypatch)


def test_parts_of_one_product_are_read_in_place_and_left_alone(monkeypatch):
    product = draw(7, 40, dtype=torch.float32)
    q, k = product[:, :24].view(7, 4, 6), product[:, 24:36].view(7, 2, 6)
    # as attention gives them back: heads outside
    dq, dk = (draw(heads, 7, 6, dtype=torch.float32, seed=heads).transpose(0, 1) for heads in (4, 2))
    before = product.clone()
    _compare(q, k, *_angles(7, 6, torch.float32), dq, dk, monkeypatch)
    assert torch.equal(product, before)


def test_one_row_of_angles_may_stand_for_all_tokens(monkeypatch):
    q, k = draw(5, 2, 8, dtype=torch.float32), draw(5, 1, 8, dtype=torch.float32, seed=1)
    angles = [each.expand(5, -1) for each in _angles(1, 8, torch.float32)]
    _compare(q, k, *angles, q, k, monkeypatch)


def test_float32_angles_are_not_rounded_for_bfloat16_heads(monkeypatch):
    q, k = draw(50, 2, 8, dtype=torch.bfloat16), draw(50, 1, 8, dtype=torch.bfloat16, seed=1)
    _compare(q, k, *_angles(50, 8, torch.float32), q, k, monkeypatch)


def test_kept_are_the_angles_alone():
    kept = []
    q, k = draw(5, 2, 8, dtype=torch.float32), draw(5, 1, 8, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        rotate_both(q.requires_grad_(), k.requires_grad_(), *_angles(5, 8, torch.float32))
    assert kept == [(5, 8), (5, 8)]
