"""What a run holds of its machine's memory and how busy its GPU is: for trackers, of rank 0 alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from whet.allocator import held_bytes
from whet.types import StepRecord

_EVERY_SECONDS = 1.0
"""the driver's own window; asking more often says nothing new"""


class Gauge:
    """Adds memory and use of the GPU to the record of a step; asked at most once a second."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self._device, self._clock = device, clock
        self._asked_at = -_EVERY_SECONDS
        self._memory_bytes: int | None = None
        self._gpu_percent: float | None = None
        self._has_driver = device.type == "cuda"

    def on(self, record: StepRecord) -> StepRecord:
        """The record with what was found last."""
        if self._clock() - self._asked_at >= _EVERY_SECONDS:
            self._asked_at = self._clock()
            self._memory_bytes = _bytes_on(self._device)
            self._gpu_percent = self._utilisation() if self._has_driver else None
        return replace(record, memory_bytes=self._memory_bytes, gpu_percent=self._gpu_percent)

    def _utilisation(self) -> float | None:
        try:
            import pynvml  # of nvidia-ml-py

            return float(torch.cuda.utilization(self._device))
        except ImportError:
            self._has_driver = False
        except (RuntimeError, pynvml.NVMLError):  # a container, or a part of a card, that may not ask
            self._has_driver = False
        return None


def _bytes_on(device: torch.device) -> int | None:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else held_bytes()
