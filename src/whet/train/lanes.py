"""Several passes of a step at a time on a CPU, each in a thread of its own with its share of the cores.

Two cores that work on one pass wait for each other after every operation, and idle through what runs on one of them:
dropout masks, small products, Python. Two passes side by side do not. Gradients are kept apart and added up in the
order of the passes, so results do not depend on which lane is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

import torch
from torch import Tensor

from whet.train.laps import Laps
from whet.types import PackedBatch

Backward = Callable[[PackedBatch, Laps, Callable[[Tensor], None]], Tensor]
"""(batch, laps, what makes the gradients of a scalar) -> the pass's loss"""


class Lanes:
    """Runs the passes of a step; its threads begin with the first and end with `close`."""

    def __init__(self, num_lanes: int, num_threads: int) -> None:
        """`num_threads` of OpenMP are shared out among the lanes, at least one each."""
        self._num_lanes = num_lanes
        self._threads_per_lane = max(1, num_threads // num_lanes)
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def run(
        self, batches: Sequence[PackedBatch], backward: Backward, parameters: Sequence[Tensor], laps: Laps
    ) -> Iterator[Tensor]:
        """Each pass's loss, in order; after the last one every parameter has the sum of the gradients in `grad`.

        No more passes are in memory than there are lanes; after an error none is left. The seconds of the lanes count
        once for all of them.
        """
        if self._pool is None:
            limit = partial(torch.set_num_threads, self._threads_per_lane)
            self._pool = ThreadPoolExecutor(self._num_lanes, "lane", limit)
        waiting: list[Future[tuple[Tensor, list[Tensor | None], Laps]]] = []
        rest = iter(batches)
        try:
            while True:
                while len(waiting) < self._num_lanes and (batch := next(rest, None)) is not None:
                    waiting.append(self._pool.submit(_one_pass, batch, backward, parameters))
                if not waiting:
                    return
                loss, gradients, own_laps = waiting.pop(0).result()
                laps.add(own_laps, share=1 / self._num_lanes)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        # laid out as its parameter, which a fused AdamW takes for granted
                        parameter.grad = (
                            torch.empty_like(parameter).copy_(gradient)
                            if parameter.grad is None
                            else parameter.grad.add_(gradient)
                        )
                yield loss
        finally:
            for future in waiting:
                future.cancel()
            wait(waiting)


def _one_pass(
    batch: PackedBatch, backward: Backward, parameters: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor | None], Laps]:
    gradients: list[Tensor | None] = []

    def keep(loss: Tensor) -> None:
        gradients.extend(torch.autograd.grad(loss, parameters, allow_unused=True))

    laps = Laps()
    return backward(batch, laps, keep), gradients, laps
