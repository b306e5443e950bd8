import pytest
import torch

from whet.kernels import reference
from whet.kernels.rotary import rotate

SHAPES = [(1, 1, 2), (5, 3, 6), (33, 4, 16)]


def _inputs(shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x_THD, dy_THD = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)
    # the two halves differ, as they do not in Llama: a half taken for the other then shows
    cos_TD, sin_TD = torch.randn(2, shape[0], shape[2], generator=generator, dtype=torch.float64).to(dtype)
    return x_THD, cos_TD, sin_TD, dy_THD


def _llama_angles(num_tokens, head_dim, dtype):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim)
    angles = LlamaRotaryEmbedding(config)(torch.zeros((), dtype=dtype), torch.arange(num_tokens)[None])
    return [each[0] for each in angles]


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_equal_the_reference(shape):
    x_THD, cos_TD, sin_TD, dy_THD = _inputs(shape)
    results = []
    for function in (rotate, reference.rotate):
        leaf = x_THD.clone().requires_grad_()
        y_THD = function(leaf, cos_TD, sin_TD)
        results.append((y_THD.detach(), *torch.autograd.grad(y_THD, leaf, dy_THD)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_gradients_equal_finite_differences():
    x_THD, cos_TD, sin_TD, _ = _inputs((3, 2, 4))
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos_TD, sin_TD), x_THD.requires_grad_())


def test_the_arrangement_is_that_of_transformers():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    x_THD, _, _, _ = _inputs((11, 4, 8))
    cos_TD, sin_TD = _llama_angles(11, 8, torch.float64)
    theirs_THD, _ = apply_rotary_pos_emb(x_THD, x_THD, cos_TD, sin_TD)
    torch.testing.assert_close(rotate(x_THD, cos_TD, sin_TD), theirs_THD, rtol=1e-12, atol=1e-12)


def test_the_gradient_turns_back():
    x_THD, _, _, _ = _inputs((11, 4, 8))
    cos_TD, sin_TD = _llama_angles(11, 8, torch.float64)
    leaf = x_THD.clone().requires_grad_()
    y_THD = rotate(leaf, cos_TD, sin_TD)
    (grad,) = torch.autograd.grad(y_THD, leaf, y_THD.detach())
    torch.testing.assert_close(grad, x_THD, rtol=1e-6, atol=1e-6)  # transformers' angles are float32


def test_parts_of_a_wider_product_are_read_in_place_and_left_alone():
    product_TC = torch.randn(7, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    part_THD = product_TC[:, 8:32].view(7, 4, 6)
    _, cos_TD, sin_TD, dy_THD = _inputs((7, 4, 6))
    before = product_TC.clone()
    leaf = part_THD.detach().requires_grad_()
    strided_dy_THD = dy_THD.transpose(0, 1).contiguous().transpose(0, 1)
    (grad,) = torch.autograd.grad(rotate(leaf, cos_TD, sin_TD), leaf, strided_dy_THD)
    copy = part_THD.clone().requires_grad_()
    (want,) = torch.autograd.grad(reference.rotate(copy, cos_TD, sin_TD), copy, dy_THD)
    torch.testing.assert_close(grad, want, rtol=1e-12, atol=1e-12)
    assert torch.equal(product_TC, before) and torch.equal(strided_dy_THD, dy_THD)


def test_queries_and_keys_side_by_side_turn_as_each_does_alone():
    x_THD, cos_TD, sin_TD, _ = _inputs((5, 6, 8), torch.bfloat16)
    both_THD = rotate(x_THD, cos_TD, sin_TD)
    assert torch.equal(both_THD[:, :4], rotate(x_THD[:, :4], cos_TD, sin_TD))
    assert torch.equal(both_THD[:, 4:], rotate(x_THD[:, 4:], cos_TD, sin_TD))


def test_rounding_in_bfloat16_is_no_larger_than_that_of_transformers():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    x_THD, _, _, dy_THD = _inputs((200, 4, 64), torch.bfloat16)
    cos_TD, sin_TD = _llama_angles(200, 64, torch.bfloat16)
    leaf, exact = x_THD.clone().requires_grad_(), x_THD.double().requires_grad_()

    def theirs(x, cos_TD, sin_TD):
        return apply_rotary_pos_emb(x, x, cos_TD, sin_TD)[0]

    truth_THD = reference.rotate(exact, cos_TD.double(), sin_TD.double())
    truth = [truth_THD, *torch.autograd.grad(truth_THD, exact, dy_THD.double())]
    errors = []
    for function in (rotate, theirs):
        y_THD = function(leaf, cos_TD, sin_TD)
        got = [y_THD, *torch.autograd.grad(y_THD, leaf, dy_THD)]
        errors.append([float((a.detach().double() - b.detach()).norm()) for a, b in zip(got, truth, strict=True)])
    assert all(ours <= other for ours, other in zip(*errors, strict=True))


def test_float32_angles_leave_bfloat16_heads_in_bfloat16():
    x_THD, cos_TD, sin_TD, _ = _inputs((5, 2, 8), torch.bfloat16)
    assert rotate(x_THD, cos_TD.float(), sin_TD.float()).dtype == torch.bfloat16


def test_kept_are_the_angles_alone():
    x_THD, cos_TD, sin_TD, _ = _inputs((5, 2, 8))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        rotate(x_THD.requires_grad_(), cos_TD, sin_TD)
    assert kept == [(5, 1, 8), (5, 1, 8)]


def test_angles_wider_than_the_heads_are_not_rounded():
    """As under autocast: bfloat16 heads, float32 angles. Rounded angles alone would cost 0.004 of each value."""
    x_THD, _, _, dy_THD = _inputs((300, 2, 8), torch.bfloat16)
    angles = _llama_angles(300, 8, torch.float32)
    leaf = x_THD.clone().requires_grad_()
    y_THD = rotate(leaf, *angles)
    (grad,) = torch.autograd.grad(y_THD, leaf, dy_THD)
    cos_TD, sin_TD = (each.double() for each in angles)
    truth = rotate(x_THD.double(), cos_TD, sin_TD).to(torch.bfloat16)
    true_grad = rotate(dy_THD.double(), cos_TD, -sin_TD).to(torch.bfloat16)
    assert y_THD.dtype == grad.dtype == torch.bfloat16
    for got, want in ((y_THD, truth), (grad, true_grad)):
        assert (got != want).float().mean() < 0.001, "but for ties of rounding"
