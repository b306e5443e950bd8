import pytest
import torch
from tiny import tiny_llama
from torch import nn

from whet.kernels import attention, attention_tiles, reference
from whet.kernels.attention import CacheLayout, DocumentLayout

# one-token documents, a single document, odd lengths, group sizes 1, 2 and 4
LENGTHS = [(1,), (1, 1, 1), (5, 1, 7), (13,), (3, 17, 2, 1)]
HEADS = [(4, 4), (4, 2), (4, 1)]
LONGEST = {"matmul": 10_000, "flash": 0, "both": 5}


@pytest.fixture(params=list(LONGEST))
def longest(request):
    """Both ways through `document_attention`, and packs that take both."""
    return LONGEST[request.param]


def _inputs(lengths, num_heads, num_kv, *, seed=0, head_dim=6):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(num_heads, sum(lengths), head_dim)] + 2 * [(num_kv, sum(lengths), head_dim)]
    return [torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_values_and_gradients_equal_the_reference(longest, lengths, heads):
    inputs = _inputs(lengths, *heads)
    out_THD = attention.document_attention(*inputs, lengths, 0.3, longest_matmul_document=longest)
    expected_THD = reference.document_attention(*inputs, lengths, 0.3)
    torch.testing.assert_close(out_THD, expected_THD, rtol=1e-10, atol=1e-12)
    weights_THD = torch.randn(out_THD.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad((out_THD * weights_THD).sum(), inputs)
    expected_grads = torch.autograd.grad((expected_THD * weights_THD).sum(), inputs)
    for grad, expected in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(
    ("prefix", "lengths"), [(1, (1,)), (3, (2, 5)), (9, (1, 1, 6)), (5, (130, 3)), (140, (3, 200)), (520, (2, 2))]
)
def test_documents_that_share_a_prefix_see_it_and_themselves(longest, prefix, lengths, heads):
    inputs = _inputs((prefix, *lengths), *heads)
    out_THD = attention.document_attention(*inputs, lengths, 0.3, prefix=prefix, longest_matmul_document=longest)
    expected_THD = reference.document_attention(*inputs, lengths, 0.3, prefix)
    torch.testing.assert_close(out_THD, expected_THD, rtol=1e-10, atol=1e-12)
    do_THD = torch.randn(out_THD.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad(out_THD, inputs, do_THD)
    for grad, expected in zip(grads, torch.autograd.grad(expected_THD, inputs, do_THD), strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-12)


def test_in_bfloat16_the_gradient_of_a_prefix_is_added_up_wide_and_rounded_once(longest):
    """Two hundred documents: added up in bfloat16 the sum would lose most of what the last ones give."""
    prefix, lengths = 3, (2,) * 200
    rounded = [x.detach().bfloat16() for x in _inputs((prefix, *lengths), 4, 2, head_dim=16)]
    do_THD = torch.randn(prefix + sum(lengths), 4, 16, generator=torch.Generator().manual_seed(1)).bfloat16()

    def gradients(attend, dtype, **more):
        leaves = [x.to(dtype).requires_grad_() for x in rounded]
        out_THD = attend(*leaves, lengths, 0.3, prefix=prefix, **more)
        return torch.autograd.grad(out_THD, leaves, do_THD.to(dtype))

    exact = gradients(reference.document_attention, torch.float64)
    found = gradients(attention.document_attention, torch.bfloat16, longest_matmul_document=longest)
    for grad, truth in zip(found, exact, strict=True):
        of_prefix = truth[:, :prefix]
        assert (grad[:, :prefix].double() - of_prefix).norm() < 0.01 * of_prefix.norm()


def test_gradients_equal_finite_differences(longest):
    def attend(*inputs):
        return attention.document_attention(*inputs, (4, 1, 7), 0.5, longest_matmul_document=longest)

    assert torch.autograd.gradcheck(attend, _inputs((4, 1, 7), 4, 2, head_dim=3))


def test_no_gradient_reaches_another_document(longest):
    q_HTD, k_KTD, v_KTD = _inputs((4, 6, 3), 4, 2)
    out_THD = attention.document_attention(q_HTD, k_KTD, v_KTD, (4, 6, 3), 0.3, longest_matmul_document=longest)
    for grad in torch.autograd.grad(out_THD[4:10].sum(), [q_HTD, k_KTD, v_KTD]):
        assert grad[:, 4:10].any()
        assert not grad[:, :4].any() and not grad[:, 10:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_change_in_one_document_never_changes_another(longest, dtype):
    lengths, changed = (4, 2, 9, 6, 140, 3), 3
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(heads, sum(lengths), 8, generator=generator).to(dtype) for heads in (4, 2, 2)]
    rows = slice(sum(lengths[:changed]), sum(lengths[: changed + 1]))
    others = torch.ones(sum(lengths), dtype=torch.bool)
    others[rows] = False
    do_THD = torch.randn(sum(lengths), 4, 8, generator=generator).to(dtype)

    def everything():
        leaves = [x.clone().requires_grad_() for x in inputs]
        out_THD = attention.document_attention(*leaves, lengths, 0.4, longest_matmul_document=longest)
        grads = torch.autograd.grad(out_THD, leaves, do_THD)
        return [out_THD.detach()[others], *(grad[:, others] for grad in grads)]

    before = everything()
    for x in (*inputs, do_THD.transpose(0, 1)):
        x[:, rows] = 1e3 * torch.randn(x[:, rows].shape, generator=generator).to(dtype)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))


@pytest.mark.parametrize("lengths", [(1,), (64,), (128, 1), (129, 63, 1), (300, 31, 33, 200), (191, 192, 193)])
def test_both_paths_are_equal_where_documents_have_one_tile_or_several(lengths):
    inputs = _inputs(lengths, 3, 1, head_dim=4)
    do_THD = torch.randn(sum(lengths), 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for longest in (0, 10_000):
        out_THD = attention.document_attention(*inputs, lengths, 0.4, longest_matmul_document=longest)
        results.append([out_THD, *torch.autograd.grad(out_THD, inputs, do_THD)])
    for flash, matmul in zip(*results, strict=True):
        torch.testing.assert_close(matmul, flash, rtol=1e-10, atol=1e-12)


def test_probabilities_made_again_give_the_same_bits_as_kept_ones(monkeypatch):
    inputs = [x.detach().bfloat16().requires_grad_() for x in _inputs((150, 40), 4, 2)]
    kept = torch.autograd.grad(attention.document_attention(*inputs, (150, 40), 0.4).sum(), inputs)
    monkeypatch.setattr(attention_tiles, "LONGEST_KEPT", 100)
    again = torch.autograd.grad(attention.document_attention(*inputs, (150, 40), 0.4).sum(), inputs)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_strided_inputs_and_gradients_are_read_in_place():
    lengths = (5, 12)
    qkv_TC = torch.randn(17, 8 * 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    strided = [part.view(17, -1, 6).transpose(0, 1) for part in qkv_TC.split([4 * 6, 2 * 6, 2 * 6], dim=1)]
    inputs = [x.clone(memory_format=torch.contiguous_format).requires_grad_() for x in strided]
    strided = [x.detach().requires_grad_() for x in strided]
    do_HTD = torch.randn(4, 17, 6, dtype=torch.float64)
    for got, expected in zip(
        torch.autograd.grad(attention.document_attention(*strided, lengths, 0.3), strided, do_HTD.transpose(0, 1)),
        torch.autograd.grad(reference.document_attention(*inputs, lengths, 0.3), inputs, do_HTD.transpose(0, 1)),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("head_dim", "spread"), [(64, 1.0), (80, 1.0), (64, 2.0)])
def test_rounding_in_bfloat16_is_no_larger_than_that_of_transformers(head_dim, spread):
    from transformers.models.llama.modeling_llama import eager_attention_forward

    lengths, num_heads, num_kv = (90, 200), 6, 2
    rounded = [x.detach().bfloat16() for x in _inputs(lengths, num_heads, num_kv, head_dim=head_dim)]
    rounded = [(x * spread).requires_grad_() for x in rounded]
    exact = [x.detach().double().requires_grad_() for x in rounded]
    do_THD = torch.randn(sum(lengths), num_heads, head_dim, generator=torch.Generator().manual_seed(1)).bfloat16()
    scale = head_dim**-0.5
    truth_THD = reference.document_attention(*exact, lengths, scale)
    truth = [truth_THD, *torch.autograd.grad(truth_THD, exact, do_THD.double())]

    def errors(out_THD):
        results = [out_THD, *torch.autograd.grad(out_THD, rounded, do_THD)]
        return torch.stack([(a.double() - b).norm() / b.norm() for a, b in zip(results, truth, strict=True)])

    module = nn.Identity()
    module.num_key_value_groups, module.training = num_heads // num_kv, False
    document_T = torch.repeat_interleave(torch.arange(2), torch.tensor(lengths))
    sees_TT = (document_T[:, None] == document_T).tril()
    bias_TT = torch.zeros(sees_TT.shape).masked_fill(~sees_TT, float("-inf")).bfloat16()
    theirs_1THD, _ = eager_attention_forward(module, *(x[None] for x in rounded), bias_TT, scaling=scale)
    ours = errors(attention.document_attention(*rounded, lengths, scale))
    assert (ours <= errors(theirs_1THD[0])).all(), ours


def test_every_token_is_a_query_row_of_exactly_one_tile():
    for lengths in [(1,), (64, 64), (10, 20, 30, 40), (127, 128, 129), (191, 192), (1000, 3)]:
        rows = []
        for stretch in attention_tiles.stretches(lengths):
            for tile in stretch.tiles:
                assert sum(tile.triangles) == tile.last - tile.first
                rows += range(stretch.start + tile.first, stretch.start + tile.last)
        assert rows == list(range(sum(lengths)))


def test_short_documents_take_the_matrix_path_and_long_ones_the_other(monkeypatch):
    taken = []
    for name in ("tiled_attention", "fused_attention"):
        monkeypatch.setattr(
            attention, name, lambda q, _k, _v, lengths, _s, n=name: taken.append((n, lengths)) or q.transpose(0, 1)
        )
    attention.document_attention(*_inputs((5, 2, 6, 1), 4, 2), (5, 2, 6, 1), 1.0, longest_matmul_document=5)
    assert taken == [("tiled_attention", (5, 2)), ("fused_attention", (6,)), ("tiled_attention", (1,))]


def test_the_limit_belongs_to_the_instance(monkeypatch):
    limits = []
    monkeypatch.setattr(
        attention, "document_attention",
        lambda q, *_, longest_matmul_document, **_rest: limits.append(longest_matmul_document) or q.transpose(0, 1),
    )  # fmt: skip
    for limit in (7, 9):
        model = tiny_llama()
        attention.install(model, longest_matmul_document=limit)
        model.model(torch.zeros(1, 4, dtype=torch.int64), use_cache=False, layout=DocumentLayout((4,)))
    assert limits == [7, 7, 9, 9]


@pytest.mark.parametrize("heads", HEADS)
def test_cached_attention_equals_the_reference(heads):
    num_heads, num_kv = heads
    generator = torch.Generator().manual_seed(0)
    lengths_B = torch.tensor([1, 9, 4])
    q_BHD = torch.randn(3, num_heads, 6, generator=generator, dtype=torch.float64)
    k_BKSD, v_BKSD = torch.randn(2, 3, num_kv, 9, 6, generator=generator, dtype=torch.float64)
    bias_BS = torch.zeros(3, 9, dtype=torch.float64).masked_fill(
        torch.arange(9)[None] >= lengths_B[:, None], float("-inf")
    )
    out_BHD = attention.cached_attention(q_BHD, k_BKSD, v_BKSD, bias_BS, 0.3)
    expected_BHD = reference.cached_attention(q_BHD, k_BKSD, v_BKSD, lengths_B, 0.3)
    torch.testing.assert_close(out_BHD, expected_BHD, rtol=1e-12, atol=1e-12)


def test_what_lies_beyond_a_rows_length_in_the_cache_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    q_BHD = torch.randn(1, 4, 6, generator=generator)
    k_BKSD, v_BKSD = torch.randn(2, 1, 2, 8, 6, generator=generator)
    bias_BS = torch.tensor([[0.0] * 5 + [float("-inf")] * 3])
    out_BHD = attention.cached_attention(q_BHD, k_BKSD, v_BKSD, bias_BS, 0.3)
    k_BKSD[:, :, 5:], v_BKSD[:, :, 5:] = 1e4, -1e4
    assert torch.equal(attention.cached_attention(q_BHD, k_BKSD, v_BKSD, bias_BS, 0.3), out_BHD)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"layout": None}, "layout of its documents"),
        ({"layout": DocumentLayout((3,))}, "layout of its documents"),
        ({"layout": DocumentLayout((4,)), "dropout": 0.1}, "no mask"),
        ({"layout": DocumentLayout((4,)), "attention_mask": torch.ones(1, 1, 4, 4)}, "no mask"),
    ],
)
def test_a_call_that_could_leak_is_refused(extra, message):
    x = torch.zeros(1, 2, 4, 6)
    with pytest.raises(ValueError, match=message):
        attention.attend(torch.nn.Identity(), x, x, x, **{"attention_mask": None, "scaling": 1.0, **extra})


def test_two_rows_need_a_cache_layout():
    x = torch.zeros(2, 2, 1, 6)
    with pytest.raises(ValueError, match="one packed row"):
        attention.attend(torch.nn.Identity(), x, x, x, None, scaling=1.0, layout=DocumentLayout((1,)))
    out, _ = attention.attend(torch.nn.Identity(), x, x, x, None, scaling=1.0, layout=CacheLayout(torch.zeros(2, 1)))
    assert out.shape == (2, 1, 2, 6)


def test_installing_changes_this_instance_only():
    changed, other = tiny_llama(), tiny_llama()
    before = other.config._attn_implementation
    attention.install(changed)
    assert changed.config._attn_implementation == attention.NAME
    assert other.config._attn_implementation == before
    with pytest.raises(ValueError, match="layout of its documents"):
        changed(torch.zeros(1, 4, dtype=torch.int64), use_cache=False)
