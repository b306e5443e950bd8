"""Up to which document length attention by matrix products beats torch's fused attention on this machine.

Both paths give the same numbers up to rounding, so the answer is only about time; it is measured once and then
belongs to the run, whose last bits it decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from whet.kernels.attention import fused_attention
from whet.kernels.attention_tiles import tiled_attention

LENGTHS = (256, 512, 1024, 2048)
# So many heads show how the paths differ; more only take longer.
_MOST_HEADS = 12
_BUDGET_SECONDS = 3.0

Attention = Callable[[Tensor, Tensor, Tensor, tuple[int, ...], float], Tensor]


def measure_switch_point(num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Longest document, in tokens, for which matrix products are the faster path; 0 if they never are.

    One document of each length goes forward and backward through both paths. Lengths that would take longer than three
    seconds in all are left out, and documents longer than any measured take the fused path. Takes about two seconds.

    One thread measures, whatever the process uses: several wait for each other, and beside other work it is the
    waiting that is measured.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return best_limit(_measure(num_heads, num_kv_heads, head_dim, dtype))
    finally:
        torch.set_num_threads(num_threads)


def _measure(num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> dict[int, tuple[float, float]]:
    """{length: (seconds by matrix products, seconds fused)}"""
    group = num_heads // num_kv_heads
    num_kv = min(num_kv_heads, max(1, _MOST_HEADS // group))
    seconds: dict[int, tuple[float, float]] = {}
    spent = last = 0.0
    for length in LENGTHS:
        # four times as much as for half the length
        if spent + 4 * last > _BUDGET_SECONDS:
            break
        started = time.perf_counter()
        inputs = _inputs(length, num_kv * group, num_kv, head_dim, dtype)
        seconds[length] = _seconds(tiled_attention, inputs), _seconds(fused_attention, inputs)
        last = time.perf_counter() - started
        spent += last
    return seconds


def best_limit(seconds: Mapping[int, tuple[float, float]]) -> int:
    """The limit that loses least over all lengths, given {length: (seconds by matrix products, seconds fused)}.

    A length counts by how many times longer than its faster path it takes, so one disturbed measurement among
    several does not decide.
    """

    def loss(limit: int) -> float:
        return sum(
            (tiled if length <= limit else fused) / min(tiled, fused) for length, (tiled, fused) in seconds.items()
        )

    return min((0, *seconds), key=loss)


def _inputs(length: int, num_heads: int, num_kv: int, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = (num_heads, length, head_dim), (num_kv, length, head_dim), (num_kv, length, head_dim)
    return tuple(torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes)


def _seconds(attention: Attention, inputs: tuple[Tensor, ...]) -> float:
    """This thread's time of the best of three passes forward and backward; neighbours on the machine do not count."""
    times = []
    for _ in range(3):
        started = time.thread_time()
        q_HTD, k_KTD, v_KTD = inputs
        out_THD = attention(q_HTD, k_KTD, v_KTD, (q_HTD.shape[1],), q_HTD.shape[2] ** -0.5)
        torch.autograd.grad(out_THD.sum(), inputs)
        times.append(time.thread_time() - started)
    return min(times)
