import pytest
import torch
from tiny import make_samples
from torch import nn

from whet.data.packing import pack
from whet.kernels.dropout import DropoutState, StatelessDropout
from whet.kernels.lora_adapter import Layer, Tensors, setting_of
from whet.kernels.lora_linear import lora_linear
from whet.kernels.lora_mlp import lora_mlp
from whet.kernels.reference import lora_linear_from_start

EMBED, INNER = 5, 7
NAMES = ("gate_proj", "up_proj", "down_proj")
RANKS, SCALES = (2, 3, 1), (1.7, 0.6, 2.3)


def _numbers(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _layers(*, has_bias, has_start, p):
    """Tensors of gate, up and down, with a rank, a scale and a mask of their own; the state of their masks."""
    state, layers = DropoutState(3), []
    for number, (name, rank) in enumerate(zip(NAMES, RANKS, strict=True)):
        inputs, outputs = (INNER, EMBED) if name == "down_proj" else (EMBED, INNER)
        shapes = [(outputs, inputs), (outputs,), (rank, inputs), (outputs, rank), (rank, inputs), (outputs, rank)]
        weight, bias, a, b, start_a, start_b = (
            _numbers(*s, seed=10 * number + i) for i, s in enumerate(shapes)
        )  # fmt: skip
        start = (start_a, -start_b) if has_start else (None, None)
        dropout = StatelessDropout(p, module_name=name, state=state)
        layers.append((Tensors(weight, bias if has_bias else None, a.requires_grad_(), b.requires_grad_(), *start),
                       dropout))  # fmt: skip
    return layers, state


def _settings(layers):
    return [
        Layer(tensors, setting_of(scale, dropout, tensors.weight_OI))
        for (tensors, dropout), scale in zip(layers, SCALES, strict=True)
    ]


def _layer_by_hand(x, tensors, dropout, scale):
    dropped = x
    if dropout.p > 0:
        dropped = x * dropout.mask(x.shape[-1], x.device) / (1 - dropout.p)
    bias = 0 if tensors.bias_O is None else tensors.bias_O
    if tensors.start_a_RI is None:
        return x @ tensors.weight_OI.T + bias + scale * dropped @ tensors.a_RI.T @ tensors.b_OR.T
    return bias + lora_linear_from_start(
        x, tensors.weight_OI, tensors.a_RI, tensors.b_OR, tensors.start_a_RI, -tensors.minus_start_b_OR,
        scale=scale, dropped_TI=dropped,
    )  # fmt: skip


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("has_start", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 8])
def test_value_and_all_gradients_equal_the_formula(p, has_start, has_bias, num_tokens):
    layers, state = _layers(has_bias=has_bias, has_start=has_start, p=p)
    x = _numbers(num_tokens, EMBED, seed=99).requires_grad_()
    with state.micro_batch(2, pack(make_samples([num_tokens]))):
        y = lora_mlp(x, *_settings(layers))
        gate, up = (_layer_by_hand(x, *layers[i], SCALES[i]) for i in range(2))
        expected = _layer_by_hand(nn.functional.silu(gate) * up, *layers[2], SCALES[2])
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    trained = [x, *(t for tensors, _ in layers for t in (tensors.a_RI, tensors.b_OR))]
    # the masks are made again in the backward pass, here after their micro-batch has gone
    grads = torch.autograd.grad(y.square().sum(), trained)
    expected_grads = torch.autograd.grad(expected.square().sum(), trained)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("has_start", [False, True])
def test_gradients_equal_finite_differences(has_start):
    layers, state = _layers(has_bias=True, has_start=has_start, p=0.4)
    x = _numbers(4, EMBED, seed=99).requires_grad_()
    with state.micro_batch(0, pack(make_samples([3, 1]))):
        settings = _settings(layers)

        def function(x, *factors):
            pairs = zip(factors[::2], factors[1::2], strict=True)
            return lora_mlp(x, *(Layer(layer.tensors._replace(a_RI=a, b_OR=b), layer.setting)
                                 for layer, (a, b) in zip(settings, pairs, strict=True)))  # fmt: skip

        factors = [t for tensors, _ in layers for t in (tensors.a_RI, tensors.b_OR)]
        assert torch.autograd.gradcheck(function, (x, *factors))


def test_it_equals_three_single_layers_with_the_same_masks():
    layers, state = _layers(has_bias=False, has_start=False, p=0.3)
    x = _numbers(9, EMBED, seed=98).requires_grad_()
    with state.micro_batch(7, pack(make_samples([4, 5]))):
        y = lora_mlp(x, *_settings(layers))

        def single(x, number):
            (tensors, dropout), scale = layers[number], SCALES[number]
            return lora_linear(x, *tensors[:4], scale=scale, dropout=dropout)

        expected = single(nn.functional.silu(single(x, 0)) * single(x, 1), 2)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    trained = [x, *(t for tensors, _ in layers for t in (tensors.a_RI, tensors.b_OR))]
    for grad, other in zip(
        torch.autograd.grad(y.sum(), trained), torch.autograd.grad(expected.sum(), trained), strict=True
    ):
        torch.testing.assert_close(grad, other, rtol=1e-12, atol=1e-12)


def test_a_second_backward_pass_over_the_same_graph_gives_the_same_gradients():
    """Nothing that was saved is used as memory for something else."""
    layers, state = _layers(has_bias=False, has_start=True, p=0.3)
    x = _numbers(6, EMBED, seed=97).requires_grad_()
    with state.micro_batch(0, pack(make_samples([6]))):
        y = lora_mlp(x, *_settings(layers))
    trained = [x, *(t for tensors, _ in layers for t in (tensors.a_RI, tensors.b_OR))]
    first, second = (torch.autograd.grad(y.square().sum(), trained, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_is_kept_for_the_backward_pass_is_x_gate_up_and_what_is_narrow():
    layers, _ = _layers(has_bias=False, has_start=False, p=0.0)
    x = _numbers(50, EMBED, seed=96).requires_grad_()
    kept = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        lora_mlp(x, *_settings(layers))
    frozen_and_factors = sum(t.numel() for tensors, _ in layers for t in tensors if t is not None)
    assert sum(kept.values()) - frozen_and_factors == 50 * (EMBED + 2 * INNER + sum(RANKS))


def test_adapter_gradients_stay_float32_over_a_bfloat16_base():
    layers, _ = _layers(has_bias=True, has_start=False, p=0.0)
    narrow = [
        tensors._replace(
            weight_OI=tensors.weight_OI.bfloat16(), bias_O=tensors.bias_O.bfloat16(),
            a_RI=tensors.a_RI.detach().float().requires_grad_(), b_OR=tensors.b_OR.detach().float().requires_grad_(),
        )
        for tensors, _ in layers
    ]  # fmt: skip
    x = _numbers(4, EMBED, seed=95).bfloat16()
    y = lora_mlp(x, *(Layer(t, setting_of(s, None, t.weight_OI)) for t, s in zip(narrow, SCALES, strict=True)))
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and x.grad is None
    assert all(t.a_RI.grad.dtype == t.b_OR.grad.dtype == torch.float32 for t in narrow)


def test_no_token_is_no_error():
    layers, _ = _layers(has_bias=True, has_start=False, p=0.0)
    x = _numbers(0, EMBED, seed=94).requires_grad_()
    lora_mlp(x, *_settings(layers)).sum().backward()
    assert x.grad.shape == (0, EMBED)
    assert all(not tensors.a_RI.grad.any() for tensors, _ in layers)
