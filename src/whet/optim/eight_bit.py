"""AdamW with moments of 8 bits, over float32 weights or over bfloat16 weights that are rounded at random.

Of a moment, 256 values at a time share a scale, the largest magnitude among them; each value over its scale becomes the
nearest of 256 numbers that lie dense around zero (Dettmers et al., 8-bit Optimizers via Block-wise Quantization,
arXiv:2110.02861, sections 2.1 and 2.2). The numbers are those of torchao's AdamW8bit, which a test compares.

The new value of a bfloat16 weight lies between two bfloat16 numbers and goes to one of them with the probability of its
distance from the other, so that small updates are right in the mean instead of lost (Gupta et al., Deep Learning with
Limited Numerical Precision, arXiv:1502.02551, equation 2). The random bits are a function of (seed, step, name of the
weight, index): torchao draws them from torch's global state, where resume and other ranks would not find them again.

6 bytes per parameter with bfloat16 weights and gradients, 10 with float32 ones, and 1/32 byte of scales.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from whet.cache import keep_compiled_code_private

BLOCK = 256
"""values that share a scale"""
SMALLEST = 4096
"""values of a parameter from which on its moments take 8 bits (where `BLOCK` divides them); below, float32"""
VALUES_AT_A_TIME = {"cpu": 2**18, "cuda": 2**22}
"""so many are wide at once: of a whole embedding the intermediate results would take gigabytes, on a CPU 15 MB"""
MOMENTS = ("exp_avg", "exp_avg_sq")


class Table(NamedTuple):
    """What codes stand for."""

    numbers: Tensor
    """float32 [256], rising from -1 or 0 to 1"""
    borders: Tensor
    """float32 [255]: halfway between neighbouring numbers"""


@cache
def table_of(key: str, device: str) -> Table:
    """The table of a moment: 0, 1, and twice as many numbers in each decade from 10^-6 to 1 as in the one below.

    The second moment is never negative and needs no sign, so each decade has twice as many as the first's.
    """
    is_signed = key == "exp_avg"
    found = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1.0, 2 ** (exponent if is_signed else exponent + 1) + 1)
        middles = ((edges[:-1] + edges[1:]) / 2.0 * 10.0 ** (exponent - 6)).tolist()
        found += [*middles, *(-middle for middle in middles)] if is_signed else middles
    numbers = torch.tensor(sorted(found))
    borders = numbers[:-1] + (numbers[1:] - numbers[:-1]) * 0.5
    return Table(numbers.to(device), borders.to(device))


class AdamW8bit(torch.optim.Optimizer):
    """State of a large parameter: `step`, and of each of `MOMENTS` the uint8 `_codes` and float32 `_scales`."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, names: Mapping[nn.Parameter, str], seed: int, lr: float,
        betas: tuple[float, float], eps: float,
    ) -> None:  # fmt: skip
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._names = dict(names)
        self._seed = seed

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "the loss is not computed anew"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)

    def _step_one(self, parameter: nn.Parameter, group: Mapping[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= _first_state(parameter)
        state["step"] += 1
        num_steps, device = int(state["step"]), parameter.device
        numbers = torch.tensor(_numbers(group, num_steps), dtype=torch.float64, device=device)
        at_a_time = VALUES_AT_A_TIME[device.type]
        starts = range(0, parameter.numel(), at_a_time)
        draw = _draw(self._seed, num_steps, self._names[parameter])
        places = torch.tensor([[draw, start] for start in starts], dtype=torch.int32, device=device)
        update = _update_of(device.type, is_quantized="exp_avg_codes" in state)
        tables = [table_of(key, str(device)) for key in MOMENTS]
        assert parameter.grad is not None
        flat = [parameter.detach().view(-1), parameter.grad.reshape(-1)]
        flat += [value.view(-1) for key, value in sorted(state.items()) if key != "step"]
        for start, place in zip(starts, places, strict=True):
            per_value = slice(start, start + at_a_time)
            per_block = slice(start // BLOCK, (start + at_a_time) // BLOCK)
            parts = [value[per_value if len(value) == parameter.numel() else per_block] for value in flat]
            update(*parts, numbers=numbers, place=place, tables=tables)


def _first_state(parameter: Tensor) -> dict[str, Tensor]:
    state = {"step": torch.tensor(0.0)}
    if parameter.numel() < SMALLEST or parameter.numel() % BLOCK:
        return state | {key: torch.zeros_like(parameter, dtype=_wide(parameter)) for key in MOMENTS}
    for key in MOMENTS:
        zero = int((table_of(key, "cpu").numbers == 0).nonzero())
        state[f"{key}_codes"] = torch.full_like(parameter, zero, dtype=torch.uint8)
        state[f"{key}_scales"] = torch.zeros(parameter.numel() // BLOCK, device=parameter.device)
    return state


def _wide(value: Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)


def _numbers(group: Mapping[str, Any], num_steps: int) -> list[float]:
    """What `_adamw` needs besides tensors, in its order."""
    beta1, beta2 = group["betas"]
    keep = 1.0 - group["lr"] * group["weight_decay"]
    return [
        group["lr"] / (1.0 - beta1**num_steps), keep, 1.0 - beta1, 1.0 - beta2, 1.0 - beta2**num_steps, group["eps"],
    ]  # fmt: skip


def _adamw(
    weight_N: Tensor, gradient_N: Tensor, m_N: Tensor, v_N: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(weight, first moment, second moment) after one step, all of them wide (arXiv:1711.05101, algorithm 2)."""
    rate, keep, share1, share2, correction2, eps = numbers.to(weight_N.dtype).unbind()
    m_N = m_N + share1 * (gradient_N - m_N)
    v_N = v_N + share2 * (gradient_N.square() - v_N)
    return weight_N * keep - rate * m_N / ((v_N / correction2).sqrt() + eps), m_N, v_N


def _update_plain(
    weight_N: Tensor, gradient_N: Tensor, m_N: Tensor, v_N: Tensor, *, numbers: Tensor, place: Tensor,
    tables: Sequence[Table],
) -> None:  # fmt: skip
    """One step with wide moments, in place."""
    new_N, new_m_N, new_v_N = _adamw(weight_N.to(m_N.dtype), gradient_N.to(m_N.dtype), m_N, v_N, numbers)
    m_N.copy_(new_m_N)
    v_N.copy_(new_v_N)
    _put(weight_N, new_N, place)


def _update_quantized(
    weight_N: Tensor, gradient_N: Tensor, m_codes_N: Tensor, m_scales_M: Tensor, v_codes_N: Tensor,
    v_scales_M: Tensor, *, numbers: Tensor, place: Tensor, tables: Sequence[Table],
) -> None:  # fmt: skip
    """One step with moments of 8 bits, in place; the weight moves by the moments as they are before rounding."""
    wide = _wide(weight_N)
    m_N = dequantize(m_codes_N, m_scales_M, tables[0]).to(wide)
    v_N = dequantize(v_codes_N, v_scales_M, tables[1]).to(wide)
    new_N, m_N, v_N = _adamw(weight_N.to(wide), gradient_N.to(wide), m_N, v_N, numbers)
    for new, old in zip(quantize(m_N.float(), tables[0]), (m_codes_N, m_scales_M), strict=True):
        old.copy_(new)
    for new, old in zip(quantize(v_N.float(), tables[1]), (v_codes_N, v_scales_M), strict=True):
        old.copy_(new)
    _put(weight_N, new_N, place)


def _put(weight_N: Tensor, new_N: Tensor, place: Tensor) -> None:
    weight_N.copy_(round_at_random(new_N, *place.unbind()) if weight_N.dtype == torch.bfloat16 else new_N)


@cache
def _update_of(device_type: str, *, is_quantized: bool) -> Callable[..., None]:
    """On CUDA one compiled kernel reads and writes each value once, where Triton is installed."""
    update = _update_quantized if is_quantized else _update_plain
    if device_type != "cuda" or importlib.util.find_spec("triton") is None:
        return update
    keep_compiled_code_private()
    compiled: Callable[..., None] = torch.compile(update, dynamic=False)
    return compiled


def quantize(values_N: Tensor, table: Table) -> tuple[Tensor, Tensor]:
    """(uint8 codes [N], float32 scales [N / BLOCK]) of a moment."""
    blocks_MB = values_N.view(-1, BLOCK)
    scales_M = blocks_MB.abs().amax(-1).clamp(min=1e-12)
    codes_MB = torch.bucketize(blocks_MB / scales_M[:, None], table.borders, right=True, out_int32=True)
    return codes_MB.view(-1).to(torch.uint8), scales_M


def dequantize(codes_N: Tensor, scales_M: Tensor, table: Table) -> Tensor:
    """float32 [N]: what the codes stand for."""
    return (table.numbers[codes_N.int()].view(-1, BLOCK) * scales_M[:, None]).view(-1)


def _draw(seed: int, num_steps: int, name: str) -> int:
    """32 bits, as a signed number."""
    digest = hashlib.blake2b(f"{seed}/{num_steps}/{name}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little", signed=True)


def round_at_random(wide_N: Tensor, draw: Tensor, start: Tensor) -> Tensor:
    """bfloat16 [N]: each value's lower or upper neighbour, in the mean the value itself.

    16 random bits are added to the float32's lower half, which is then cut off. They are a function of `draw` and of
    `start` + place, int32 both.
    """
    index_N = torch.arange(wide_N.numel(), dtype=torch.int32, device=wide_N.device) + start
    bits_N = _mix32((index_N * -1640531535) ^ draw) & 0xFFFF
    return ((wide_N.float().view(torch.int32) + bits_N) & -0x10000).view(torch.float32).bfloat16()


def _mix32(x: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser on int32 bits."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * (0x85EBCA6B - (1 << 32))
    x = x ^ ((x >> 13) & 0x7FFFF)
    x = x * (0xC2B2AE35 - (1 << 32))
    return x ^ ((x >> 16) & 0xFFFF)
