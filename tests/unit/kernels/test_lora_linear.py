import copy

import pytest
import torch
from tiny import LORA, attach, make_samples, perturb, tiny_llama
from torch import nn

from whet.data.packing import pack
from whet.kernels import lora_linear as module
from whet.kernels.dropout import DropoutState, StatelessDropout
from whet.kernels.lora_adapter import Layer, Tensors, setting_of
from whet.kernels.lora_linear import lora_linear, lora_linears
from whet.kernels.reference import lora_linear_from_start
from whet.models.adapters import ADAPTER_NAME
from whet.recipe.schema import Adapter

BATCH = pack(make_samples([4, 1, 3]))
NUM_TOKENS, INPUTS, OUTPUTS, RANK = 8, 5, 6, 2


def _inputs():
    generator = torch.Generator().manual_seed(0)
    shapes = [(NUM_TOKENS, INPUTS), (OUTPUTS, INPUTS), (OUTPUTS,), (RANK, INPUTS), (OUTPUTS, RANK)]
    x, weight, bias, a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return x.requires_grad_(), weight, bias, a.requires_grad_(), b.requires_grad_()


def _dropout(p=0.4):
    state = DropoutState(3)
    return state, StatelessDropout(p, module_name="q_proj", state=state)


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_gradients_equal_finite_differences(p):
    x_TI, weight_OI, bias_O, a_RI, b_OR = _inputs()
    state, dropout = _dropout(p)

    def function(x, a, b):
        return lora_linear(x, weight_OI, bias_O, a, b, scale=1.7, dropout=dropout)

    with state.micro_batch(0, BATCH):
        assert torch.autograd.gradcheck(function, (x_TI, a_RI, b_OR))


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("has_bias", [True, False])
def test_value_and_gradients_equal_the_formula_with_the_same_mask(p, has_bias):
    x_TI, weight_OI, bias_O, a_RI, b_OR = _inputs()
    bias_O = bias_O if has_bias else None
    state, dropout = _dropout(p)
    with state.micro_batch(0, BATCH):
        y_TO = lora_linear(x_TI, weight_OI, bias_O, a_RI, b_OR, scale=1.7, dropout=dropout)
        dropped_TI = x_TI * dropout.mask(INPUTS, x_TI.device) / (1 - p)
    expected_TO = nn.functional.linear(x_TI, weight_OI, bias_O) + 1.7 * dropped_TI @ a_RI.T @ b_OR.T
    torch.testing.assert_close(y_TO, expected_TO, rtol=1e-12, atol=1e-12)
    # the mask is made again in the backward pass, here after its micro-batch has gone
    grads = torch.autograd.grad(y_TO.square().sum(), [x_TI, a_RI, b_OR])
    expected_grads = torch.autograd.grad(expected_TO.square().sum(), [x_TI, a_RI, b_OR])
    for grad, expected in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-10)


def test_the_backward_pass_sees_its_own_mask_when_other_rows_have_come():
    x_TI, weight_OI, bias_O, a_RI, b_OR = _inputs()
    state, dropout = _dropout()
    with state.micro_batch(0, BATCH):
        y_TO = lora_linear(x_TI, weight_OI, bias_O, a_RI, b_OR, scale=1.0, dropout=dropout)
        (at_once,) = torch.autograd.grad(y_TO.sum(), x_TI, retain_graph=True)
    with state.micro_batch(1, BATCH):
        (later,) = torch.autograd.grad(y_TO.sum(), x_TI)
    assert torch.equal(at_once, later)


def test_an_input_that_needs_no_gradient_gets_none():
    x_TI, weight_OI, bias_O, a_RI, b_OR = _inputs()
    x_TI.requires_grad_(False)
    lora_linear(x_TI, weight_OI, bias_O, a_RI, b_OR, scale=1.0).sum().backward()
    assert x_TI.grad is None and a_RI.grad is not None and b_OR.grad is not None


def test_adapter_gradients_stay_float32_over_a_bfloat16_base():
    x_TI, weight_OI, bias_O, a_RI, b_OR = (t.detach() for t in _inputs())
    x_TI, weight_OI, bias_O = (t.bfloat16() for t in (x_TI, weight_OI, bias_O))
    a_RI, b_OR = a_RI.float().requires_grad_(), b_OR.float().requires_grad_()
    y_TO = lora_linear(x_TI, weight_OI, bias_O, a_RI, b_OR, scale=1.0)
    y_TO.sum().backward()
    assert y_TO.dtype == torch.bfloat16
    assert a_RI.grad.dtype == b_OR.grad.dtype == torch.float32


def _lora_layers(model):
    return [layer for layer in model.modules() if hasattr(layer, "lora_A")]


def test_every_layer_is_changed_and_uninstalling_gives_pefts_forward_back():
    model = tiny_llama()
    attach(model, LORA)
    num_changed, reasons = module.install(model, ADAPTER_NAME)
    assert (num_changed, reasons) == (14, [])
    assert all("forward" in vars(layer) for layer in _lora_layers(model))
    module.uninstall(model)
    assert not any("forward" in vars(layer) for layer in _lora_layers(model))


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_dora": True}, "it is a LoRA variant"),
        ({"lora_dropout": 0.1}, "its dropout draws from a generator"),
        ({"lora_bias": True}, "its adapter has a bias"),
    ],
)
def test_a_layer_that_computes_something_else_is_left_to_peft(options, reason):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj"], **options), adapter_name=ADAPTER_NAME)
    num_changed, reasons = module.install(model, ADAPTER_NAME)
    assert num_changed == 0
    assert len(reasons) == 2 and all(each.endswith(reason) for each in reasons)


def test_a_base_weight_that_trains_too_is_left_to_autograd():
    model = tiny_llama()
    attach(model, Adapter(targets=("q_proj",)))
    for layer in _lora_layers(model):
        layer.base_layer.weight.requires_grad_(True)
    assert module.install(model, ADAPTER_NAME)[0] == 0


def _start():
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(s, generator=generator, dtype=torch.float64) for s in [(RANK, INPUTS), (OUTPUTS, RANK)])


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("num_tokens", [1, NUM_TOKENS])
def test_with_a_start_value_and_gradients_equal_the_reference(p, num_tokens):
    x_TI, weight_OI, _, a_RI, b_OR = _inputs()
    x_TI = x_TI[:num_tokens].detach().requires_grad_()
    start_a_RI, start_b_OR = _start()
    state, dropout = _dropout(p)
    with state.micro_batch(0, pack(make_samples([num_tokens]))):
        y_TO = lora_linear(
            x_TI, weight_OI, None, a_RI, b_OR, scale=1.7, dropout=dropout, start=(start_a_RI, -start_b_OR)
        )
        dropped_TI = x_TI * dropout.mask(INPUTS, x_TI.device) / (1 - p)
    expected_TO = lora_linear_from_start(
        x_TI, weight_OI, a_RI, b_OR, start_a_RI, start_b_OR, scale=1.7, dropped_TI=dropped_TI
    )
    torch.testing.assert_close(y_TO, expected_TO, rtol=1e-12, atol=1e-12)
    grads = torch.autograd.grad(y_TO.square().sum(), [x_TI, a_RI, b_OR])
    expected_grads = torch.autograd.grad(expected_TO.square().sum(), [x_TI, a_RI, b_OR])
    for grad, expected in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-10)


def test_with_a_start_gradients_equal_finite_differences():
    x_TI, weight_OI, bias_O, a_RI, b_OR = _inputs()
    start_a_RI, start_b_OR = _start()
    state, dropout = _dropout()

    def function(x, a, b):
        return lora_linear(x, weight_OI, bias_O, a, b, scale=1.7, dropout=dropout, start=(start_a_RI, -start_b_OR))

    with state.micro_batch(0, BATCH):
        assert torch.autograd.gradcheck(function, (x_TI, a_RI, b_OR))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_at_its_start_a_layer_is_the_base_to_the_last_bit(dtype):
    x_TI, weight_OI, bias_O, _, _ = (t.detach().to(dtype) for t in _inputs())
    start_a_RI, start_b_OR = (100 * t.to(torch.promote_types(dtype, torch.float32)) for t in _start())
    y_TO = lora_linear(
        x_TI, weight_OI, bias_O, start_a_RI, start_b_OR, scale=3.0, start=(start_a_RI, -start_b_OR)
    )  # fmt: skip
    assert torch.equal(y_TO, nn.functional.linear(x_TI, weight_OI, bias_O))


def test_in_bfloat16_a_small_step_from_a_large_start_is_not_lost_in_rounding():
    """The step is a thousandth of the start, less than half of bfloat16's own step; it must arrive within a percent."""
    x_TI, weight_OI, _, _, _ = (t.detach().bfloat16() for t in _inputs())
    start_a_RI, start_b_OR = (t.float() for t in _start())
    a_RI, b_OR = start_a_RI * 1.001, start_b_OR * 1.001
    y_TO = lora_linear(x_TI, torch.zeros_like(weight_OI), None, a_RI, b_OR, scale=1.0, start=(start_a_RI, -start_b_OR))
    expected_TO = x_TI.float() @ (b_OR @ a_RI - start_b_OR @ start_a_RI).T
    assert (y_TO - expected_TO).norm() < 0.01 * expected_TO.norm()


def _three(p):
    """Three layers of different widths, ranks and scales over one input, as q, k and v are; one without a bias."""
    generator, state, layers = torch.Generator().manual_seed(8), DropoutState(4), []
    for name, outputs, rank, scale in (("q", 6, 2, 1.7), ("k", 3, 1, 0.4), ("v", 4, 3, 2.0)):
        shapes = [(outputs, INPUTS), (outputs,), (rank, INPUTS), (outputs, rank)]
        weight, bias, a, b = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
        tensors = Tensors(weight, None if name == "k" else bias, a.requires_grad_(), b.requires_grad_())
        layers.append((tensors, scale, StatelessDropout(p, module_name=name, state=state)))
    return layers, state


def _together(x, layers):
    return lora_linears(x, [Layer(t, setting_of(scale, dropout, t.weight_OI)) for t, scale, dropout in layers])


@pytest.mark.parametrize(("num_tokens", "p"), [(0, 0.0), (1, 0.0), (1, 0.4), (NUM_TOKENS, 0.0), (NUM_TOKENS, 0.4)])
def test_three_layers_over_one_input_are_three_single_layers(num_tokens, p):
    layers, state = _three(p)
    x_TI = _inputs()[0][:num_tokens].detach().requires_grad_()
    rows = pack(make_samples([num_tokens])) if num_tokens else BATCH
    with state.micro_batch(0, rows):
        outs = _together(x_TI, layers)
        singles = [lora_linear(x_TI, *t[:4], scale=scale, dropout=dropout) for t, scale, dropout in layers]
    trained = [x_TI, *(factor for t, _, _ in layers for factor in (t.a_RI, t.b_OR))]
    # different weights for each, so that a gradient in the wrong place shows
    both = [
        torch.autograd.grad(sum((i + 1) * y.square().sum() for i, y in enumerate(ys)), trained)
        for ys in (outs, singles)
    ]
    for mine, theirs in zip([*outs, *both[0]], [*singles, *both[1]], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_of_three_layers_equal_finite_differences():
    layers, state = _three(0.4)
    x_TI = _inputs()[0]
    factors = [factor for t, _, _ in layers for factor in (t.a_RI, t.b_OR)]

    def function(x, *factors):
        moved = [
            (t._replace(a_RI=a, b_OR=b), scale, dropout)
            for (t, scale, dropout), a, b in zip(layers, factors[::2], factors[1::2], strict=True)
        ]
        return _together(x, moved)

    with state.micro_batch(0, BATCH):
        assert torch.autograd.gradcheck(function, (x_TI, *factors))


def test_an_output_that_nothing_reads_has_no_part_in_the_gradient():
    layers, _ = _three(0.0)
    x_TI = _inputs()[0]
    q_TO, _, v_TO = _together(x_TI, layers)
    (grad,) = torch.autograd.grad(q_TO.sum() + v_TO.sum(), x_TI)
    used = [lora_linear(x_TI, *layers[i][0][:4], scale=layers[i][1]) for i in (0, 2)]
    (expected,) = torch.autograd.grad(used[0].sum() + used[1].sum(), x_TI)
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-12)


def test_a_watched_part_of_a_layer_is_left_to_peft():
    model = tiny_llama()
    attach(model, Adapter(targets=("q_proj",)))
    _lora_layers(model)[0].lora_A[ADAPTER_NAME].register_forward_hook(lambda *_: None)
    num_changed, reasons = module.install(model, ADAPTER_NAME)
    assert num_changed == 1 and reasons[0].endswith("a hook is inside it")


def test_an_adapter_that_is_switched_off_computes_the_base():
    model = tiny_llama()
    perturb(attach(model, LORA))
    module.install(model, ADAPTER_NAME)
    layer = _lora_layers(model)[0]
    x_TI = torch.randn(3, layer.in_features, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(layer(x_TI), layer.base_layer(x_TI))
    layer.enable_adapters(False)
    assert torch.equal(layer(x_TI), layer.base_layer(x_TI))


def test_a_copy_of_a_model_computes_with_its_own_factors():
    model = tiny_llama()
    perturb(attach(model, LORA))
    module.install(model, ADAPTER_NAME)
    x_TI = torch.randn(3, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = _lora_layers(model)[0](x_TI)
    copied = _lora_layers(copy.deepcopy(model))[0]
    with torch.no_grad():
        copied.lora_B[ADAPTER_NAME].weight.zero_()
    assert torch.equal(copied(x_TI), copied.base_layer(x_TI))
    assert torch.equal(_lora_layers(model)[0](x_TI), before)
