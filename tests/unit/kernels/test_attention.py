import pytest
import torch
from tiny import tiny_llama

from whet.kernels import attention, reference
from whet.kernels.attention import CacheLayout, DocumentLayout

# one-token documents, a single document, odd lengths, group sizes 1, 2 and 4
LENGTHS = [(1,), (1, 1, 1), (5, 1, 7), (13,), (3, 17, 2, 1)]
HEADS = [(4, 4), (4, 2), (4, 1)]


@pytest.fixture(params=["matmul", "flash"])
def path(request, monkeypatch):
    """Both ways through `document_attention`."""
    if request.param == "flash":
        monkeypatch.setattr(attention, "LONGEST_MATMUL_DOCUMENT", 0)
    return request.param


def _inputs(lengths, num_heads, num_kv, *, seed=0, head_dim=6):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(num_heads, sum(lengths), head_dim)] + 2 * [(num_kv, sum(lengths), head_dim)]
    return [torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_values_and_gradients_equal_the_reference(path, lengths, heads):
    inputs = _inputs(lengths, *heads)
    out_THD = attention.document_attention(*inputs, lengths, 0.3)
    expected_THD = reference.document_attention(*inputs, lengths, 0.3)
    torch.testing.assert_close(out_THD, expected_THD, rtol=1e-10, atol=1e-12)
    weights_THD = torch.randn(out_THD.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad((out_THD * weights_THD).sum(), inputs)
    expected_grads = torch.autograd.grad((expected_THD * weights_THD).sum(), inputs)
    for grad, expected in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-12)


def test_gradients_equal_finite_differences(path):
    inputs = _inputs((4, 1, 3), 4, 2, head_dim=3)
    assert torch.autograd.gradcheck(lambda q, k, v: attention.document_attention(q, k, v, (4, 1, 3), 0.5), inputs)


def test_no_gradient_reaches_another_document(path):
    q_HTD, k_KTD, v_KTD = _inputs((4, 6, 3), 4, 2)
    out_THD = attention.document_attention(q_HTD, k_KTD, v_KTD, (4, 6, 3), 0.3)
    for grad in torch.autograd.grad(out_THD[4:10].sum(), [q_HTD, k_KTD, v_KTD]):
        assert grad[:, 4:10].any()
        assert not grad[:, :4].any() and not grad[:, 10:].any()


def test_short_documents_take_the_matrix_path_and_long_ones_the_other(monkeypatch):
    taken = []
    monkeypatch.setattr(attention, "_flash_document_attention", lambda *_: taken.append("flash"))
    monkeypatch.setattr(attention, "LONGEST_MATMUL_DOCUMENT", 5)
    attention.document_attention(*_inputs((5, 2), 4, 2), (5, 2), 1.0)
    assert taken == []
    attention.document_attention(*_inputs((6, 2), 4, 2), (6, 2), 1.0)
    assert taken == ["flash"]


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
