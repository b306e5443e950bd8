"""The loss head in chunks of rows and blocks of tokens, and the libraries', against full logits."""

import sys
import threading
import types

import pytest
import torch
from torch import nn

from whet.errors import RecipeError
from whet.kernels import loss_head, loss_head_libraries, reference
from whet.kernels.loss_head import VocabularyShare, linear_nll_sum, nll_and_correct
from whet.kernels.loss_head_libraries import refuse_unusable

VOCAB, HIDDEN = 37, 11


def _inputs(num_rows, *, dtype=torch.float64, vocab=VOCAB):
    generator = torch.Generator().manual_seed(num_rows)
    hidden_NE = torch.randn(num_rows, HIDDEN, generator=generator, dtype=dtype, requires_grad=True)
    weight_VE = torch.randn(vocab, HIDDEN, generator=generator, dtype=dtype, requires_grad=True)
    return hidden_NE, weight_VE, torch.randint(0, vocab, (num_rows,), generator=generator)


def _small(monkeypatch, *, rows=8, tokens=10):
    """37 tokens are then three blocks of 10 and one of 7."""
    monkeypatch.setattr(loss_head, "ROWS_PER_CHUNK", rows)
    monkeypatch.setitem(loss_head.TOKENS_PER_BLOCK, "cpu", tokens)


# around the borders of chunks of 8; one token per block, blocks with a shorter last one, one block for all
@pytest.mark.parametrize("tokens", [1, 10, 36, 37, 64])
@pytest.mark.parametrize("num_rows", [1, 7, 8, 9, 31])
def test_value_and_all_gradients_equal_the_reference(monkeypatch, num_rows, tokens):
    _small(monkeypatch, tokens=tokens)
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
    _small(monkeypatch, rows=3)
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


def test_logits_that_grow_from_block_to_block_do_not_overflow(monkeypatch):
    """Every block moves the largest logit by more than exp() in float32 can take."""
    _small(monkeypatch, tokens=4)
    weight_VE = torch.linspace(-500, 500, VOCAB)[:, None].requires_grad_()
    hidden_NE = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    for labels_N in (torch.tensor([0, 0]), torch.tensor([VOCAB - 1, 3])):
        nll = linear_nll_sum(hidden_NE, weight_VE, labels_N, dtype=torch.float32)
        grads = torch.autograd.grad(nll, [hidden_NE, weight_VE])
        double = [hidden_NE.detach().double().requires_grad_(), weight_VE.detach().double().requires_grad_()]
        expected = reference.nll_sum(*double, labels_N)
        torch.testing.assert_close(nll.double(), expected, rtol=1e-6, atol=1e-6)
        for grad, wanted in zip(grads, torch.autograd.grad(expected, double), strict=True):
            torch.testing.assert_close(grad.double(), wanted, rtol=1e-5, atol=1e-5)


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


def test_in_bfloat16_gradients_are_as_exact_as_those_of_full_bfloat16_logits(monkeypatch):
    """Of a head trained in float32, against float64 on the same rounded values; many blocks add up to no larger error
    than one product has."""
    _small(monkeypatch, rows=64, tokens=16)
    hidden_NE, weight_VE, labels_N = _inputs(100, dtype=torch.bfloat16, vocab=300)
    weight_VE = weight_VE.detach().float().requires_grad_()
    double = [x.detach().double().requires_grad_() for x in (hidden_NE, weight_VE)]
    exact = torch.autograd.grad(reference.nll_sum(*double, labels_N), double)
    nll = linear_nll_sum(hidden_NE, weight_VE, labels_N, dtype=torch.bfloat16)
    ours = torch.autograd.grad(nll, [hidden_NE, weight_VE])
    nll = reference.nll_sum(hidden_NE, weight_VE.to(torch.bfloat16), labels_N)
    full = torch.autograd.grad(nll, [hidden_NE, weight_VE])
    for grad, plain, wanted in zip(ours, full, exact, strict=True):
        error, plain_error = ((x.double() - wanted).norm() / wanted.norm() for x in (grad, plain))
        assert error < 1.05 * plain_error < 0.01, (error, plain_error)


def test_where_the_label_is_almost_certain_the_small_gradient_is_exact():
    """p - 1 = -5e-5, which a bfloat16 product of P and W would round away. Unit rows: logits 10 and 0."""
    weight_VE = torch.eye(4, dtype=torch.bfloat16)
    hidden_NE = (10 * weight_VE[:1]).detach().requires_grad_()
    linear_nll_sum(hidden_NE, weight_VE, torch.tensor([0]), dtype=torch.bfloat16).backward()
    exact = hidden_NE.detach().double().requires_grad_()
    reference.nll_sum(exact, weight_VE.double(), torch.tensor([0])).backward()
    torch.testing.assert_close(hidden_NE.grad.double(), exact.grad, rtol=5e-3, atol=0)


@pytest.mark.parametrize("num_rows", [0, 1, 8, 9, 31])
def test_each_positions_value_and_hit_are_those_of_full_logits(monkeypatch, num_rows):
    _small(monkeypatch)
    hidden_NE, weight_VE, labels_N = _inputs(num_rows)
    logits_NV = (hidden_NE @ weight_VE.T).detach()
    labels_N[::2] = logits_NV[::2].argmax(-1)
    nll_N, correct_N = loss_head.nll_and_correct(hidden_NE, weight_VE, labels_N, dtype=torch.float64)
    torch.testing.assert_close(nll_N, torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="none"))
    assert correct_N.tolist() == (logits_NV.argmax(-1) == labels_N).tolist()


@pytest.mark.skipif(not hasattr(nn.functional, "linear_cross_entropy"), reason="this torch has no linear_cross_entropy")
@pytest.mark.parametrize("trains_head", [True, False])
def test_torchs_own_function_gives_the_same_value_and_gradients(monkeypatch, trains_head):
    _small(monkeypatch)
    hidden_NE, weight_VE, labels_N = _inputs(31)
    weight_VE.requires_grad_(trains_head)
    inputs = [hidden_NE, weight_VE] if trains_head else [hidden_NE]
    values, grads = [], []
    for kind in ("chunked", "torch"):
        values.append(linear_nll_sum(hidden_NE, weight_VE, labels_N, dtype=torch.float64, kind=kind))
        grads.append(torch.autograd.grad(values[-1] / 13, inputs))
    torch.testing.assert_close(*values, rtol=1e-12, atol=0)
    for ours, torchs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-10, atol=1e-13)


@pytest.mark.skipif(not hasattr(nn.functional, "linear_cross_entropy"), reason="this torch has no linear_cross_entropy")
def test_in_bfloat16_torchs_sum_is_not_rounded_to_bfloat16():
    """Its own sum would be: 2,000 rows of 3.6 nats are 7,200, where bfloat16 has steps of 32."""
    hidden_NE, weight_VE, labels_N = _inputs(2000, dtype=torch.bfloat16)
    ours = linear_nll_sum(hidden_NE, weight_VE, labels_N, dtype=torch.bfloat16)
    torchs = linear_nll_sum(hidden_NE, weight_VE, labels_N, dtype=torch.bfloat16, kind="torch")
    assert torchs.dtype == torch.float32
    # each row's own rounding, 0.2 % of it, averages out
    assert abs(torchs.item() / ours.item() - 1) < 3e-4
    ours_grad, torchs_grad = (torch.autograd.grad(nll, hidden_NE)[0].double() for nll in (ours, torchs))
    assert (torchs_grad - ours_grad).norm() < 0.01 * ours_grad.norm()


def test_liger_gets_the_products_format_and_is_asked_for_the_sum(monkeypatch):
    """Its function is written in Triton and runs on GPUs only; what is handed to it can be seen anywhere."""
    calls = []

    def fused(hidden_NE, weight_VE, labels_N, **settings):
        calls.append((hidden_NE.dtype, weight_VE.dtype, settings))
        return reference.nll_sum(hidden_NE, weight_VE, labels_N)

    module = types.ModuleType("liger_kernel.transformers.functional")
    module.liger_fused_linear_cross_entropy = fused
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", module)
    for parent in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    hidden_NE, weight_VE, labels_N = _inputs(5, dtype=torch.float32)
    nll = linear_nll_sum(hidden_NE, weight_VE, labels_N, dtype=torch.float64, kind="liger")
    assert calls == [(torch.float64, torch.float64, {"reduction": "sum"})]
    torch.testing.assert_close(nll, linear_nll_sum(hidden_NE, weight_VE, labels_N, dtype=torch.float64))


def test_a_loss_head_that_cannot_run_here_is_refused_with_a_sentence(monkeypatch):
    refuse_unusable("chunked", torch.device("cpu"))
    refuse_unusable("torch", torch.device("cpu"))
    with pytest.raises(RecipeError, match="written in Triton and does not run on cpu"):
        refuse_unusable("liger", torch.device("cpu"))
    monkeypatch.setattr(loss_head_libraries, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"liger-kernel is not installed\n  mend: pip install 'whet\[liger\]'"):
        refuse_unusable("liger", torch.device("cuda"))
    monkeypatch.delattr(nn.functional, "linear_cross_entropy")
    with pytest.raises(RecipeError, match="has no linear_cross_entropy"):
        refuse_unusable("torch", torch.device("cpu"))


def test_many_small_parts_of_a_bfloat16_head_s_gradient_add_up(monkeypatch):
    _small(monkeypatch, rows=1, tokens=64)
    hidden_NE, weight_VE, _ = _inputs(600, dtype=torch.bfloat16)
    labels_N = torch.zeros(600, dtype=torch.int64)  # one token in all rows: 600 parts of about one size
    grads = []
    for dtype in (torch.bfloat16, torch.float64):
        hidden, weight = (each.detach().to(dtype).requires_grad_() for each in (hidden_NE.abs(), weight_VE))
        nll = linear_nll_sum(hidden, weight, labels_N, dtype=dtype)
        grads.append(torch.autograd.grad(nll, weight)[0])
    assert grads[0].dtype == torch.bfloat16
    # half a bfloat16 step is 0.2 %; summed in bfloat16 the row is a fifth off
    assert (grads[0].double() - grads[1]).norm() < 0.01 * grads[1].norm()


def _in_ranks(weight_VE, ranges, compute):
    """[compute(this rank's weight, its share)] of threads that exchange tensors like ranks."""
    barrier, slots, results = threading.Barrier(len(ranges)), [None] * len(ranges), [None] * len(ranges)

    def one_rank(rank):
        def of_all_ranks(tensor):
            slots[rank] = tensor
            barrier.wait(timeout=20)
            gathered = torch.stack(slots)
            barrier.wait(timeout=20)
            return gathered

        own = ranges[rank]
        part = weight_VE.detach()[own.start : own.stop].clone().requires_grad_()
        results[rank] = compute(part, VocabularyShare(own.start, of_all_ranks))

    threads = [threading.Thread(target=one_rank, args=(rank,)) for rank in range(len(ranges))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert None not in results, "a rank failed"
    return results


@pytest.mark.parametrize("ranges", [[range(18), range(18, 37)], [range(12), range(12, 13), range(13, 37)]])
def test_ranks_that_share_the_vocabulary_have_its_loss_and_their_parts_of_the_gradients(monkeypatch, ranges):
    _small(monkeypatch)
    hidden_NE, weight_VE, labels_N = _inputs(19)

    def compute(part, share):
        hidden = hidden_NE.detach().clone().requires_grad_()
        nll = linear_nll_sum(hidden, part, labels_N, dtype=torch.float64, share=share)
        return nll, torch.autograd.grad(nll / 13, [hidden, part])

    expected = reference.nll_sum(hidden_NE, weight_VE, labels_N)
    grad_hidden, grad_weight = torch.autograd.grad(expected / 13, [hidden_NE, weight_VE])
    ranks = _in_ranks(weight_VE, ranges, compute)
    for nll, _ in ranks:
        torch.testing.assert_close(nll, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(sum(grads[0] for _, grads in ranks), grad_hidden, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(torch.cat([grads[1] for _, grads in ranks]), grad_weight, rtol=1e-10, atol=1e-13)


def test_a_certain_label_of_another_rank_leaves_no_gradient(monkeypatch):
    """The softmax of a rank's own tokens is no probability until the other ranks' are known."""
    _small(monkeypatch)
    hidden_NE, weight_VE, _ = _inputs(4, dtype=torch.float32)
    labels_N = torch.full((4,), 5)
    with torch.no_grad():
        weight_VE[5], hidden_NE[:] = 60.0, 1.0

    def compute(part, share):
        hidden = hidden_NE.detach().clone().requires_grad_()
        nll = linear_nll_sum(hidden, part, labels_N, dtype=torch.float32, share=share)
        return torch.autograd.grad(nll, [hidden])[0]

    for grad in _in_ranks(weight_VE, [range(18), range(18, 37)], compute):
        assert float(grad.abs().max()) < 1e-30


def test_ranks_that_share_the_vocabulary_agree_on_the_likeliest_token_also_between_equals():
    hidden_NE, weight_VE, labels_N = _inputs(31)
    with torch.no_grad():
        for tensor in (hidden_NE, weight_VE):  # whole numbers: sums without rounding, in whatever order
            tensor.mul_(4).round_()
        weight_VE[3] *= 9
        weight_VE[30] = weight_VE[3]  # the same logit in two ranks: the first token counts
    labels_N[:16], labels_N[16:] = 3, 30
    nll_N, correct_N = nll_and_correct(hidden_NE, weight_VE, labels_N, dtype=torch.float64)
    assert correct_N[:16].any() and not correct_N[16:].any()
    for nll, correct in _in_ranks(
        weight_VE,
        [range(18), range(18, 37)],
        lambda part, share: nll_and_correct(hidden_NE, part, labels_N, dtype=torch.float64, share=share),
    ):
        torch.testing.assert_close(nll, nll_N.detach(), rtol=1e-12, atol=0)
        assert torch.equal(correct, correct_N)


def test_a_librarys_loss_head_takes_no_share():
    hidden_NE, weight_VE, labels_N = _inputs(3)
    with pytest.raises(ValueError, match="no share of a vocabulary"):
        linear_nll_sum(
            hidden_NE, weight_VE, labels_N, dtype=torch.float64, kind="torch", share=VocabularyShare(0, torch.stack)
        )
