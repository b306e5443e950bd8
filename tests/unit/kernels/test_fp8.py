"""Rounding to float8 is exact to the last bit, and both forms of a weight are the products that are documented."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from whet.kernels import fp8

TOKENS, INPUTS, OUTPUTS = 7, 32, 48
EVERY_BFLOAT16 = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
FINITE = EVERY_BFLOAT16[EVERY_BFLOAT16.isfinite()]
LEVELS = sorted({m * 2.0**e for e in range(-9, 6) for m in range(16) if m * 2.0**e <= 448})
"""every number >= 0 of e4m3, from its definition: 3 bits of mantissa, normal from 2^-6 on"""


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def uneven(num_rows: int, num_columns: int, seed: int = 0) -> Tensor:
    """Rows and columns of very different size, one row of zeros."""
    x = random(num_rows, num_columns, seed=seed)
    x = x * 2.0 ** torch.arange(num_rows)[:, None] * 1.7 ** -(torch.arange(num_columns) % 9)
    x[num_rows // 2] = 0
    return x


def nearest_level(value: float) -> float:
    """The nearest number of e4m3; of two, the one whose last bit is 0."""
    distances = [abs(abs(value) - level) for level in LEVELS]
    near = [number for number, distance in enumerate(distances) if distance == min(distances)]
    return math.copysign(LEVELS[next((n for n in near if n % 2 == 0), near[0])], value)


def test_the_levels_of_the_definition_are_torchs():
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    assert sorted({abs(n) for n in numbers.tolist() if math.isfinite(n)}) == LEVELS


def test_every_number_becomes_the_nearest_level_ties_to_even():
    ties = [(a + b) / 2 for a, b in pairwise(LEVELS)]
    values = torch.tensor([[448.0, *ties, *(-t for t in ties), *random(300).mul(20).tolist(), 3e-4, 9e-4, -1e-3]])
    q, scale = fp8.quantize_rows(values)
    assert float(scale) == 1.0
    assert q[0].double().tolist() == [nearest_level(v) for v in values[0].tolist()]


def test_the_scale_is_the_smallest_power_of_two_with_which_a_row_fits():
    x = torch.tensor([[448.0], [448.1], [1.0], [-449.0], [0.0], [3e38], [1e-45]])
    _, scale = fp8.quantize_rows(x)
    assert scale.flatten().tolist() == [1.0, 2.0, 2.0**-8, 2.0, 1.0, 2.0**120, 2.0**-126]
    assert scale.dtype == torch.float32 and scale.shape == (7, 1)


@pytest.mark.parametrize("largest", [3e38, 448.0, 449.0, 1.0, 3e-36, 1e-40])
def test_nothing_finite_becomes_infinite_or_nan_and_the_fast_rounding_is_the_reference(largest):
    x = torch.cat([FINITE[FINITE.abs() <= largest], torch.tensor([largest]).bfloat16()])[None]
    q, scale = fp8.quantize_rows(x)
    rounded = fp8.round_rows(x)
    assert rounded.isfinite().all() and rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, (q.float() * scale).bfloat16())


def test_a_rounded_number_is_a_bfloat16_number():
    q, scale = fp8.quantize_rows(uneven(20, 64))
    values = q.double() * scale
    assert torch.equal(values.bfloat16().double(), values)


@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_does_not_come_out_finite(fault):
    x = random(3, INPUTS)
    x[1, 5] = fault
    q, scale = fp8.quantize_rows(x)
    for values in (q.float() * scale, fp8.round_rows(x), fp8.round_rows(x, torch.full((INPUTS,), 0.5))):
        assert not values[1].isfinite().all() and values[[0, 2]].isfinite().all()


def test_a_row_is_rounded_by_itself():
    """So that packing and the split into passes change nothing."""
    x = uneven(9, INPUTS) * 16.0 ** torch.arange(9)[:, None]
    assert torch.equal(fp8.round_rows(x)[4:6], fp8.round_rows(x[4:6]))
    assert torch.equal(fp8.round_rows(x)[8], fp8.round_rows(x[8:])[0])


def weight_of(seed: int = 1, **form: bool) -> tuple[Tensor, fp8.Fp8Weight]:
    weight_OI = uneven(OUTPUTS, INPUTS, seed) * 2.0**-30
    return weight_OI, fp8.quantize_weight(weight_OI, **form)


def dequantized(x: Tensor) -> Tensor:
    q, scale = fp8.quantize_rows(x)
    return q.double() * scale


def scaled_mm_takes_rows() -> bool:
    try:
        weight = fp8.quantize_weight(torch.ones(16, 16), is_real=True)
        fp8.outputs([weight], [None], torch.ones(3, 16))
    except RuntimeError:
        return False
    return True


FORMS = [
    {"is_real": False},
    {"is_real": True},
    {"is_real": True, "is_turned_too": True},
]


@pytest.fixture(params=FORMS, ids=["emulated", "real", "real and turned"])
def form(request):
    """The real form needs no Hopper: torch multiplies float8 rows on CPUs too, slowly."""
    if request.param["is_real"] and not scaled_mm_takes_rows():
        pytest.skip("this torch multiplies no float8 rows on CPUs")
    return request.param


@pytest.mark.parametrize("has_bias", [False, True])
def test_both_forms_are_the_product_of_the_rounded_numbers(form, has_bias):
    weight_OI, weight = weight_of(**form)
    x_TI, bias_O = random(TOKENS, INPUTS), random(OUTPUTS) if has_bias else None
    (y_TO,) = fp8.outputs([weight], [bias_O], x_TI)
    expected = dequantized(x_TI) @ dequantized(weight_OI).T + (0 if bias_O is None else bias_O)
    torch.testing.assert_close(y_TO.double(), expected, rtol=1e-6, atol=1e-6)


def test_both_forms_take_the_gradient_rounded_under_the_weights_scale(form):
    """dx = Q(dy s^T) q, of two layers that read the same x."""
    pairs = [weight_of(seed, **form) for seed in (1, 2)]
    grads = [uneven(TOKENS, OUTPUTS, seed) for seed in (3, 4)]
    dx_TI = fp8.input_gradient([weight for _, weight in pairs], grads)
    expected = torch.zeros(TOKENS, INPUTS, dtype=torch.float64)
    for (weight_OI, _), dy_TO in zip(pairs, grads, strict=True):
        q_OI, scale_O1 = fp8.quantize_rows(weight_OI)
        expected += dequantized(dy_TO * scale_O1.T) @ q_OI.double()
    torch.testing.assert_close(dx_TI.double(), expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


def test_layers_that_read_one_input_each_get_its_product(form):
    weights = [weight_of(seed, **form)[1] for seed in (1, 2, 3)]
    x_TI = random(TOKENS, INPUTS)
    together = fp8.outputs(weights, [None] * 3, x_TI)
    assert all(
        torch.equal(y, fp8.outputs([w], [None], x_TI)[0]) for y, w in zip(together, weights, strict=True)
    )  # fmt: skip


def test_bytes_per_weight_are_one_or_two_where_the_products_are_real():
    def num_bytes(weight: fp8.Fp8Weight) -> int:
        return sum(tensor.nbytes for tensor in weight if tensor is not None)

    weight_OI = random(OUTPUTS, INPUTS, dtype=torch.bfloat16)
    count = OUTPUTS * INPUTS
    assert num_bytes(fp8.quantize_weight(weight_OI, is_real=True)) == count + 4 * OUTPUTS
    assert num_bytes(fp8.quantize_weight(weight_OI, is_real=True, is_turned_too=True)) == 2 * count + 4 * OUTPUTS
    assert num_bytes(fp8.quantize_weight(weight_OI, is_real=False)) == 2 * count + 4 * OUTPUTS


def test_the_reason_for_emulation_is_said():
    assert fp8.why_emulated(torch.device("cpu"), torch.bfloat16) == "there are no float8 products on the device cpu"
    assert "computes in float32" in fp8.why_emulated(torch.device("cuda"), torch.float32)


def test_an_older_gpu_is_emulated(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 9))
    reason = fp8.why_emulated(torch.device("cuda", 7), torch.bfloat16)
    assert reason == "compute capability 8.9 has no float8 products with a scale per row"


def test_the_operands_lie_as_a_gpu_asks_for(monkeypatch):
    """torch checks the layout of a product of imagined tensors: rows side by side, columns side by side."""
    monkeypatch.setenv("WHET_TRITON", "off")
    with FakeTensorMode():
        device = torch.device("cuda")
        byte = {"dtype": torch.uint8, "device": device}
        weight = fp8.Fp8Weight(
            torch.empty(OUTPUTS, INPUTS, **byte), torch.empty(OUTPUTS, 1, device=device),
            torch.empty(INPUTS, OUTPUTS, **byte),
        )  # fmt: skip
        x_TI = torch.empty(TOKENS, INPUTS, dtype=torch.bfloat16, device=device)
        (y_TO,) = fp8.outputs([weight], [None], x_TI)
        dx_TI = fp8.input_gradient([weight], [y_TO])
    assert (y_TO.shape, y_TO.dtype) == ((TOKENS, OUTPUTS), torch.bfloat16)
    assert (dx_TI.shape, dx_TI.dtype) == ((TOKENS, INPUTS), torch.bfloat16)
