"""Before anything heavy: a few all-reduces between all ranks, timed and checked: a bad network shows at once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from whet.errors import PeerLostError
from whet.parallel.collective import collective

_LARGE_BYTES = 8_000_000
_NUM_SMALL = 5
_NUM_LARGE = 3
_ENOUGH_SECONDS = 0.2
"""a network on which one large all-reduce takes longer is not asked again"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoke:
    """What the all-reduces took; the same on all ranks."""

    num_ranks: int
    small_seconds: float
    """of 4 bytes, median"""
    large_seconds: float
    """of `large_bytes`, the fastest"""
    large_bytes: int

    @property
    def bytes_per_second(self) -> float:
        """Sent by each rank, which of n sends 2 (n - 1) / n of the buffer in a ring."""
        return 2 * (self.num_ranks - 1) / self.num_ranks * self.large_bytes / self.large_seconds

    @property
    def sentence(self) -> str:
        """`all-reduce over 2 ranks: 0.2 ms for 4 bytes, 9 ms for 8 MB (0.89 GB/s sent by each rank)`."""
        small, large = f"{1000 * self.small_seconds:.1f} ms", f"{1000 * self.large_seconds:.0f} ms"
        speed = f"{self.bytes_per_second / 1e9:.2f} GB/s sent by each rank"
        return (
            f"all-reduce over {self.num_ranks} ranks: {small} for 4 bytes, "
            f"{large} for {self.large_bytes / 1e6:.0f} MB ({speed})"
        )


def smoke_test(device: torch.device, say: Callable[[str], None] = lambda _: None) -> Smoke | None:
    """Time and check all-reduces on `device`, and say what they took; None for one process. Under a second.

    PeerLostError when a rank does not come, or when a sum is wrong.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    with collective("all-reduce of the smoke test"):
        _timed(1, device)  # connections are made
        small = statistics.median(_timed(1, device) for _ in range(_NUM_SMALL))
        large = _slowest_rank(_timed(_LARGE_BYTES // 4, device), device)
        if large < _ENOUGH_SECONDS:
            large = min(large, *(_timed(_LARGE_BYTES // 4, device) for _ in range(_NUM_LARGE - 1)))
        small, large = _slowest_rank(small, device), _slowest_rank(large, device)
    smoke = Smoke(
        num_ranks=dist.get_world_size(), small_seconds=small, large_seconds=large, large_bytes=_LARGE_BYTES
    )  # fmt: skip
    say(smoke.sentence)
    return smoke


def _timed(num_values: int, device: torch.device) -> float:
    """Seconds of one all-reduce; its sum is checked."""
    world = dist.get_world_size()
    buffer = torch.full((num_values,), dist.get_rank() + 1.0, device=device)
    _settle(device)
    started = time.monotonic()
    dist.all_reduce(buffer)
    _settle(device)
    seconds = time.monotonic() - started
    _check(buffer, world * (world + 1) / 2)
    return seconds


def _check(buffer: Tensor, expected: float) -> None:
    wrong = int((buffer != expected).sum())
    if wrong:
        raise PeerLostError(
            f"the network returns wrong sums: {wrong} of {buffer.numel()} values are not {expected:.0f}, "
            f"such as {float(buffer[buffer != expected][0])}",
            where=f"rank {dist.get_rank()}",
            mend="try NCCL_P2P_DISABLE=1; if that helps, PCIe settings (ACS, IOMMU) damage what GPUs send",
        )


def _slowest_rank(seconds: float, device: torch.device) -> float:
    box = torch.tensor([seconds], dtype=torch.float32, device=device)
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return float(box)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
