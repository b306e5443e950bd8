"""All weights on a GPU: masters and moments of 8 bits train as on the CPU, and the compiled update is the plain one."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from tiny import build_training, make_plan, make_samples, run_steps, tiny_llama

from whet.optim import eight_bit
from whet.optim.eight_bit import BLOCK, MOMENTS, dequantize, quantize, round_at_random, table_of
from whet.recipe.schema import Optim

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
SAMPLES = make_samples([17, 9, 30, 5, 12, 8, 21, 14])
PLAN = make_plan(len(SAMPLES), micro_batch=4, global_batch=4, total_steps=20)
WIDE = Optim(lr=3e-3, schedule="constant", warmup=0)
WAYS = {"masters": replace(WIDE, master="float32"), "8 bits": replace(WIDE, name="adamw_8bit")}


def _losses(device: torch.device, dtype: torch.dtype, optim: Optim) -> list[float]:
    training = build_training(tiny_llama(dtype).to(device), SAMPLES, PLAN, optim=optim)
    return [record.loss for record in run_steps(replace(training, device=device))]


@pytest.mark.parametrize("way", WAYS)
def test_the_loss_falls_as_it_does_in_float32_on_the_cpu(way):
    expected = _losses(torch.device("cpu"), torch.float32, WIDE)
    found = _losses(CUDA, torch.bfloat16, WAYS[way])
    assert max(abs(a - b) / b for a, b in zip(found, expected, strict=True)) < 0.02
    assert found[0] - found[-1] > 0.5


def test_the_same_weights_are_rounded_alike_on_both_devices():
    values = torch.linspace(-3.0, 3.0, 100_001)
    draw, start = torch.tensor(-123_456_789, dtype=torch.int32), torch.tensor(7, dtype=torch.int32)
    on_gpu = round_at_random(values.to(CUDA), draw.to(CUDA), start.to(CUDA))
    assert torch.equal(on_gpu.cpu(), round_at_random(values, draw, start))


@pytest.mark.parametrize("key", MOMENTS)
def test_codes_are_the_same_on_both_devices(key):
    values = torch.randn(64 * BLOCK, generator=torch.Generator().manual_seed(0))
    values = values if key == "exp_avg" else values.abs()
    codes, scales = quantize(values, table_of(key, "cpu"))
    codes_gpu, scales_gpu = quantize(values.to(CUDA), table_of(key, str(CUDA)))
    assert torch.equal(scales_gpu.cpu(), scales)
    # a value halfway between two numbers may go to either where the division rounds otherwise
    assert (codes_gpu.cpu() == codes).float().mean() > 0.999
    back = dequantize(codes_gpu, scales_gpu, table_of(key, str(CUDA)))
    assert bool(torch.isfinite(back).all())


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs a CUDA device with triton")
@pytest.mark.parametrize("is_quantized", [True, False])
def test_the_compiled_update_is_the_plain_one_up_to_rounding(is_quantized):
    num = 4 * 4096
    generator = torch.Generator(CUDA).manual_seed(0)
    tables = [table_of(key, str(CUDA)) for key in MOMENTS]
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.1, "eps": 1e-8}
    settled = []
    plain = eight_bit._update_quantized if is_quantized else eight_bit._update_plain
    for update in (plain, eight_bit._update_of("cuda", is_quantized=is_quantized)):
        generator.manual_seed(0)
        weight = torch.randn(num, device=CUDA, generator=generator).bfloat16()
        moments = [torch.zeros(num, device=CUDA) for _ in MOMENTS]
        if is_quantized:
            moments = [each for m, table in zip(moments, tables, strict=True) for each in quantize(m, table)]
        for step in (1, 2, 3):
            gradient = torch.randn(num, device=CUDA, generator=generator).bfloat16()
            numbers = torch.tensor(eight_bit._numbers(group, step), dtype=torch.float64, device=CUDA)
            place = torch.tensor([17 * step, 0], dtype=torch.int32, device=CUDA)
            update(weight, gradient, *moments, numbers=numbers, place=place, tables=tables)
        settled.append(weight.float())
    # the same random bits: where a sum is rounded otherwise, few weights go to the other neighbour
    assert (settled[0] != settled[1]).float().mean() < 0.01
    torch.testing.assert_close(settled[0], settled[1], rtol=2.0**-6, atol=1e-3)
