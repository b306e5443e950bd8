"""On the CPU with stand-ins for the libraries' functions, which compute document by document in plain torch."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from tiny import tiny_llama

from whet.errors import RecipeError
from whet.kernels import attention, attention_varlen, reference, select
from whet.kernels.attention import DocumentLayout
from whet.kernels.attention_varlen import Heads, flash_varlen, torch_varlen, why_not

CPU = torch.device("cpu")
GROUPED = Heads(num_query=4, num_key=2, size=6, dtype=torch.float64)
LENGTHS = (5, 1, 7)


def compute(q_THD, k_TKD, v_TKD, cu_seq, scale, *, is_causal=True):
    """Each document by itself, with torch's own attention; borders are read from the tensor alone."""
    parts = []
    for start, end in zip(cu_seq.tolist(), cu_seq.tolist()[1:], strict=False):
        q, k, v = (x[None, start:end].transpose(1, 2) for x in (q_THD, k_TKD, v_TKD))
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=is_causal, scale=scale, enable_gqa=True
        )
        parts.append(out.transpose(1, 2)[0])
    return torch.cat(parts)


def check(q, k, v, cu_q, cu_k, max_q, max_k):
    assert cu_q is cu_k and cu_q.dtype == torch.int32 and cu_q[0] == 0 and cu_q[-1] == len(q)
    assert max_q == max_k == int(cu_q.diff().max()) and isinstance(max_q, int)
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1


def torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    raise AssertionError("takes no scale")


def torch_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):  # fmt: skip
    check(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k)
    return compute(query, key, value, cu_seq_q, scale, is_causal=window_size == (-1, 0))


def torch_2_13(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
    enable_gqa=False, seqused_k=None,
):  # fmt: skip
    if query.shape[1] != key.shape[1] and not enable_gqa:
        raise ValueError("Expect query and key/value to have the same number of heads")
    return torch_2_11(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, return_aux=return_aux, scale=scale, window_size=window_size
    )


def torch_without_groups(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    if query.shape[1] != key.shape[1]:
        raise RuntimeError("Number of heads of key/value and query must be equal\nC++ frames follow")
    return compute(query, key, value, cu_seq_q, scale, is_causal=window_size == (-1, 0))


def flash_2(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
            causal=False, deterministic=False):  # fmt: skip
    check(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    assert deterministic, "the backward pass adds in any order"
    return compute(q, k, v, cu_seqlens_q, softmax_scale, is_causal=causal)


FUNCTIONS = {
    "2.11": torch_varlen(torch_2_11), "2.13": torch_varlen(torch_2_13), "flash": flash_varlen(flash_2),
    "repeated": attention_varlen.with_repeated_heads(torch_varlen(torch_without_groups)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("prefix", [0, 3])
def test_attention_through_each_signature_equals_the_reference(name, prefix):
    total = prefix + sum(LENGTHS)
    generator = torch.Generator().manual_seed(0)
    q, k, v, weights = (torch.randn(1, n, total, 6, generator=generator, dtype=torch.float64) for n in (4, 2, 2, 4))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    module = torch.nn.Identity()
    module.whet_varlen_attention = FUNCTIONS[name]
    layouts = [DocumentLayout(LENGTHS, prefix)]
    layouts.append(DocumentLayout(LENGTHS, prefix, layouts[0].offsets_on(CPU)))
    for layout in layouts:
        out_1THD, _ = attention.attend(module, q, k, v, None, scaling=0.3, layout=layout)
        grads = torch.autograd.grad((out_1THD.transpose(1, 2) * weights).sum(), inputs)
        if prefix:
            alone = attention.document_attention(q[0], k[0], v[0], LENGTHS, 0.3, prefix=prefix)
        else:
            alone = reference.document_attention(q[0], k[0], v[0], LENGTHS, 0.3)
        expected = torch.autograd.grad((alone.transpose(0, 1) * weights[0]).sum(), inputs)
        for ours, theirs in zip((out_1THD[0], *grads), (alone, *expected), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_offsets_of_the_batch_are_taken_as_they_are():
    offsets = torch.tensor([0, 5, 6, 13], dtype=torch.int32)
    assert DocumentLayout(LENGTHS, 0, offsets).offsets_on(CPU) is offsets
    assert torch.equal(DocumentLayout(LENGTHS).offsets_on(CPU), offsets)
    assert DocumentLayout(LENGTHS, 2).offsets_on(CPU).tolist() == [0, 7, 10, 19]


def test_under_autocast_all_three_have_the_format_of_the_values():
    seen = []

    def note(q, k, v, offsets, longest, scale):
        seen.extend(x.dtype for x in (q, k, v))
        return q

    module = torch.nn.Identity()
    module.whet_varlen_attention = note
    q, k = torch.randn(1, 4, 3, 6), torch.randn(1, 2, 3, 6)
    attention.attend(module, q, k, k.bfloat16(), None, scaling=1.0, layout=DocumentLayout((3,)))
    assert seen == [torch.bfloat16] * 3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_equals_the_reference_passes(name):
    assert why_not(FUNCTIONS[name], GROUPED, CPU) is None
    assert why_not(FUNCTIONS[name], Heads(num_query=4, num_key=4, size=8, dtype=torch.bfloat16), CPU) is None


def _leaks(q, k, v, offsets, longest, scale):
    return compute(q, k, v, offsets[[0, -1]], scale)


def _sees_ahead(q, k, v, offsets, longest, scale):
    return compute(q, k, v, offsets, scale, is_causal=False)


def _has_no_gradient(q, k, v, offsets, longest, scale):
    return compute(q, k.detach() + 0 * k, v, offsets, scale)


def _is_nan(q, k, v, offsets, longest, scale):
    return compute(q, k, v, offsets, scale) * float("nan")


@pytest.mark.parametrize("wrong", [_leaks, _sees_ahead, _has_no_gradient, _is_nan])
def test_wrong_values_or_gradients_are_not_taken(wrong):
    assert "off by" in why_not(wrong, GROUPED, CPU)


def test_what_raises_is_told_in_one_line():
    assert why_not(torch_varlen(torch_without_groups), GROUPED, CPU).endswith("query must be equal")
    assert "scale" in why_not(torch_varlen(torch_2_10), GROUPED, CPU)


@pytest.fixture
def libraries(monkeypatch):
    """A function that puts these in the place of the real libraries; None: there is none."""

    def give(**functions):
        for kind, (module, name, _bind) in attention_varlen._HOMES.items():
            there = ModuleType(module)
            if (function := functions.get(kind.replace("-", "_"))) is not None:
                setattr(there, name, function)
            monkeypatch.setitem(sys.modules, module, there)

    return give


def test_the_first_library_that_works_is_found(libraries):
    libraries(torch=torch_2_13, flash_attn=flash_2)
    found = {kind: attention_varlen.find(kind, GROUPED, CPU) for kind in ("torch", "flash-attn")}
    assert all(callable(function) for function in found.values())
    libraries(flash_attn=flash_2)
    assert "no torch.nn.attention.varlen.varlen_attn" in attention_varlen.find("torch", GROUPED, CPU)
    assert callable(attention_varlen.find("flash-attn", GROUPED, CPU))


def test_heads_are_repeated_only_where_a_kernel_wants_it(libraries):
    heads = []

    def count(query, key, *others, **options):
        heads.append(key.shape[1])
        return torch_without_groups(query, key, *others, **options)

    count.__signature__ = __import__("inspect").signature(torch_without_groups)
    libraries(torch=count)
    assert why_not(attention_varlen.find("torch", GROUPED, CPU), GROUPED, CPU) is None
    assert heads == [2, 4, 4]
    libraries(torch=torch_2_11)
    found = attention_varlen.find("torch", GROUPED, CPU)
    assert found.__qualname__.startswith("torch_varlen")


def test_off_cuda_nothing_is_tried_whatever_a_plan_says(libraries, monkeypatch):
    monkeypatch.setattr(attention_varlen, "find", lambda *_: pytest.fail("tried"))
    assert attention_varlen.choose(GROUPED, CPU) == "documents"
    assert attention_varlen.load("torch", GROUPED, CPU) is None
    assert "matrix products" in select.install(tiny_llama(), adapter_name=None, attention_kind="torch")["attention"]


def test_a_gpu_takes_the_first_that_works_and_documents_where_none_does(monkeypatch):
    cuda, works = torch.device("cuda"), {"flash-attn"}
    monkeypatch.setattr(attention_varlen, "find", lambda kind, *_: compute if kind in works else "not here")
    assert attention_varlen.choose(GROUPED, cuda) == "flash-attn"
    assert attention_varlen.load("flash-attn", GROUPED, cuda) is compute
    works.add("torch")
    assert attention_varlen.choose(GROUPED, cuda) == "torch"
    works.clear()
    assert attention_varlen.choose(GROUPED, cuda) == "documents"


def test_the_function_of_a_plan_that_does_not_work_here_is_refused(monkeypatch):
    monkeypatch.setattr(attention_varlen, "find", lambda *_: "needs compute capability 8")
    with pytest.raises(RecipeError, match=r"torch's varlen_attn.*needs compute capability 8"):
        attention_varlen.load("torch", GROUPED, torch.device("cuda"))


def test_heads_are_those_of_the_model_and_its_products():
    expected = Heads(num_query=4, num_key=2, size=16, dtype=torch.float32)
    assert attention_varlen.heads_of(tiny_llama(torch.float32)) == expected
    assert attention_varlen.heads_of(tiny_llama(torch.float32), torch.bfloat16).dtype == torch.bfloat16
