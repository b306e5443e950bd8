"""The Triton kernels on a GPU: the cases of tests/interpreted, with liger-kernel as a second opinion."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from kernel_cases import DTYPES, EPS, HEADS, ROWS, add_and_norm, compare, draw, gradients
from tiny import build_training, make_plan, make_samples, run_steps, tiny_llama

from whet.kernels import fp8, norm, reference, triton_support
from whet.kernels.rotary import rotate_both
from whet.kernels.swiglu import backward_into, swiglu
from whet.recipe.schema import Adapter, Optim

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = "cuda"
LORA = Adapter(rank=4, alpha=8.0, dropout=0.05)
LARGE = ((4096, 4096), (1000, 14336))


def _draw(*shape, dtype, seed=0):
    return draw(*shape, dtype=dtype, device=CUDA, seed=seed)


def _fused_norm(x, weight_E):
    return (norm.rms_norm(x, weight_E, EPS),)


def _fused_swiglu(gate, up):
    return (swiglu(gate, up),)


def test_nothing_stands_against_the_kernels():
    assert triton_support.why_not(torch.device(CUDA)) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ROWS + LARGE)
def test_the_norm_equals_the_reference(shape, dtype, monkeypatch):
    weight_E = _draw(shape[-1], dtype=dtype, seed=9).abs() + 0.5
    x, residual, dh, dy = (_draw(*shape, dtype=dtype, seed=seed) for seed in range(4))
    compare(_fused_norm, lambda x, w: (reference.rms_norm(x, w, EPS),), [x, weight_E], [dy], monkeypatch)
    compare(lambda *i: norm.add_rms_norm(*i, EPS), add_and_norm, [x, residual, weight_E], [dh, dy], monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_tokens", "num_q_heads", "num_k_heads", "head_dim"), HEADS)
def test_the_rotary_embedding_equals_the_reference(
    num_tokens, num_q_heads, num_k_heads, head_dim, dtype, monkeypatch
):  # fmt: skip
    q, dq = (_draw(num_tokens, num_q_heads, head_dim, dtype=dtype, seed=seed) for seed in (0, 1))
    k, dk = (_draw(num_tokens, num_k_heads, head_dim, dtype=dtype, seed=seed) for seed in (2, 3))
    cos_TD, sin_TD = (_draw(num_tokens, head_dim, dtype=dtype, seed=seed) for seed in (7, 8))
    wide = cos_TD.double(), sin_TD.double()
    compare(
        lambda q, k: rotate_both(q, k, cos_TD, sin_TD),
        lambda q, k: (reference.rotate(q, *wide), reference.rotate(k, *wide)), [q, k], [dq, dk], monkeypatch,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ROWS + LARGE)
def test_swiglu_equals_the_reference_and_by_hand_has_its_bits(shape, dtype, monkeypatch):
    gate, up, dh = (_draw(*shape, dtype=dtype, seed=seed) for seed in range(3))
    compare(_fused_swiglu, lambda g, u: (reference.swiglu(g, u),), [gate, up], [dh], monkeypatch)
    monkeypatch.delenv("WHET_TRITON")
    expected = gradients(_fused_swiglu, [gate, up], [dh])
    assert all(torch.equal(got, want) for got, want in zip(backward_into(dh.clone(), gate, up), expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 16), (33, 576), *LARGE])
def test_float8_rows_have_the_numbers_of_torch(shape, dtype):
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs a CUDA device with float8 products")
    from whet.kernels.triton_fp8 import quantize_rows

    x = _draw(*shape, dtype=dtype)
    (q, scale), (other_q, other_scale) = quantize_rows(x), fp8.quantize_rows(x.cpu())
    assert torch.equal(scale.cpu(), other_scale) and torch.equal(q.cpu().float(), other_q.float())


def _liger():
    """The operations of liger-kernel, or the test is skipped."""
    if find_spec("liger_kernel") is None:
        pytest.skip("needs a CUDA device and liger-kernel")
    from liger_kernel import ops

    return ops


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_liger_kernel_computes_the_same(dtype):
    ops = _liger()
    x, dy = (_draw(300, 576, dtype=dtype, seed=seed) for seed in (0, 1))
    weight_E = _draw(576, dtype=dtype, seed=2).abs() + 0.5
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    theirs = gradients(lambda x, w: (ops.LigerRMSNormFunction.apply(x, w, EPS),), [x, weight_E], [dy])
    ours = gradients(_fused_norm, [x, weight_E], [dy])
    # the gradient of a weight is a sum of 300 rows
    for got, want in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(got, want, **tolerance)
    assert (ours[2] - theirs[2]).norm() <= tolerance["rtol"] * theirs[2].norm()
    theirs = gradients(lambda g, u: (ops.LigerSiLUMulFunction.apply(g, u),), [x, dy], [dy])
    for got, want in zip(gradients(_fused_swiglu, [x, dy], [dy]), theirs, strict=True):
        torch.testing.assert_close(got, want, **tolerance)


def _losses(adapter, num_steps):
    samples = make_samples((40, 33, 25, 18, 31, 12, 27, 36))
    plan = make_plan(len(samples), micro_batch=2, global_batch=4, total_steps=num_steps)
    training = build_training(
        tiny_llama(torch.float32).to(CUDA), samples, plan, adapter=adapter,
        optim=Optim(lr=3e-3, schedule="constant", warmup=0), is_perturbed=False,
    )  # fmt: skip
    training = replace(training, device=torch.device(CUDA))
    return [record.loss for record in run_steps(training)], training


@pytest.mark.parametrize("adapter", [None, LORA])
def test_fifty_steps_with_the_kernels_have_the_losses_of_torch(adapter, monkeypatch):
    ours, training = _losses(adapter, 50)
    assert training.kernels["triton"] == "norm, rotary, swiglu"
    assert ours[-1] < ours[0] - 0.5, "nothing was learnt, so that nothing was compared"
    monkeypatch.setenv("WHET_TRITON", "off")
    theirs, training = _losses(adapter, 50)
    assert training.kernels["triton"].startswith("not used")
    # sums in another order differ by 1e-7, and Adam moves what has a gradient near zero by a whole learning rate
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-4
