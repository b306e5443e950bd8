"""Backward passes on a GPU add in a fixed order, so that a continued run has the bits of one that never stopped.

Kernels of attention otherwise add the parts of a query's gradient as their blocks happen to end. Forward passes need no
such care: what whet computes there has an order of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def fixed_order(device: torch.device) -> Iterator[None]:
    """Inside, torch takes kernels that give the same bits every time and warns where it has none; on CUDA only."""
    if device.type != "cuda":
        yield
        return
    # torch asks for it before it calls matrix products of cuBLAS the same in every run; 32 MiB, Hopper's default
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings: Any = torch.utils.deterministic
    was_on = torch.are_deterministic_algorithms_enabled()
    did_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=did_warn or not was_on)
    settings.fill_uninitialized_memory = False  # every tensor is written before it is read
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=did_warn)
        settings.fill_uninitialized_memory = filled
