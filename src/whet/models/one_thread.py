"""One thread for the decompositions of small matrices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_LARGE = 2048 * 2048
"""numbers in a matrix from which several threads decompose it faster"""


@contextmanager
def one_thread_where_small(matrix: Tensor) -> Iterator[None]:
    """LAPACK's threads spin while they wait for each other: on a busy machine of two cores, two of them took twelve
    times as long as one for the layers of SmolLM2-135M (210 s against 17 s)."""
    num_threads = torch.get_num_threads()
    is_small = matrix.device.type == "cpu" and matrix.numel() < _LARGE
    torch.set_num_threads(1 if is_small else num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
