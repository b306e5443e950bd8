import pytest
import torch
from kernel_cases import DTYPES, draw

from whet.kernels import fp8
from whet.kernels.triton_fp8 import quantize_rows

SHAPES = [(1, 16), (7, 24), (33, 576), (3, 4096), (5, 1)]


def _same(got, want):
    (q, scale), (other_q, other_scale) = got, want
    assert torch.equal(scale, other_scale)
    assert torch.equal(q.float(), other_q.float())  # 0 may have another sign


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_and_scales_are_those_of_the_torch_function(shape, dtype):
    x = draw(*shape, dtype=dtype) * torch.logspace(-4, 4, shape[0], base=10)[:, None].to(dtype)
    _same(quantize_rows(x), fp8.quantize_rows(x))


def test_all_numbers_of_e4m3_stay_and_ties_go_to_the_even_one():
    numbers = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    ties = (numbers[1:] + numbers[:-1]) / 2
    x = torch.cat([numbers, ties, ties.nextafter(numbers[1:]), ties.nextafter(numbers[:-1])])
    q, scale = quantize_rows(torch.stack([x, -x]))
    assert torch.equal(scale, torch.ones(2, 1))
    assert torch.equal(q[0].float(), x.to(torch.float8_e4m3fn).float())
    assert torch.equal(q[1].float(), -q[0].float())


def test_the_largest_number_of_a_row_never_overflows():
    """448 fits with the scale 1; what lies a hair above it takes the scale 2."""
    x = torch.tensor([[448.0], [448.0001], [-511.0], [896.0], [3e38], [1e-37], [0.0]])
    q, scale = quantize_rows(x)
    assert q.float().isfinite().all()
    assert scale[:4, 0].tolist() == [1.0, 2.0, 2.0, 2.0] and scale[-1] == 1
    torch.testing.assert_close(q.float() * scale, x, rtol=1 / 16, atol=0)


def test_a_power_of_two_for_each_column_goes_in_before_rounding():
    x = draw(6, 24, dtype=torch.bfloat16)
    column_scale = torch.logspace(-8, 15, 24, base=2).exp2().clamp(2.0**-8, 2.0**8)
    _same(quantize_rows(x, column_scale), fp8.quantize_rows(x.float() * column_scale))


def test_rows_at_a_distance_and_columns_that_are_not_side_by_side_are_right():
    wide = draw(6, 40, dtype=torch.float32)
    for x in (wide[:, 4:20], wide.T):
        _same(quantize_rows(x), fp8.quantize_rows(x))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_row_that_is_not_finite_is_seen_in_its_scale():
    x = torch.tensor([[1.0, torch.nan], [-torch.inf, 1.0], [1.0, 2.0]])
    assert quantize_rows(x)[1].isnan().flatten().tolist() == [True, True, False]
