"""Whether this machine runs the Triton kernels, and the reason where it does not.

Triton is optional: nothing here or in the functions that use the kernels imports it before a kernel is to run. With
TRITON_INTERPRET=1 in the environment Triton runs its kernels in Python on any device, slowly and for tests;
WHET_TRITON=off leaves every operation to torch.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

OLDEST_TRITON = (3, 4)
OLDEST_CAPABILITY = (8, 0)
"""NVIDIA's Ampere: the first with bfloat16"""
OPERATIONS = ("norm", "rotary", "swiglu")
"""switches of `select.install` with a kernel of their own"""
DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})


def why_not(device: torch.device) -> str | None:
    """The reason for which no Triton kernel runs on this device; None where they do."""
    if os.environ.get("WHET_TRITON") == "off":
        return "WHET_TRITON is off"
    return _why_not(device.type, os.environ.get("TRITON_INTERPRET") == "1")


def is_used(x: Tensor) -> bool:
    """Whether an operation on this tensor goes through its Triton kernel; float64 never does."""
    return x.dtype in DTYPES and x.numel() > 0 and why_not(x.device) is None


def sentence(device: torch.device, dtype: torch.dtype, operations: Sequence[str]) -> str | None:
    """For the run summary: which of `operations` go through Triton, or why none does; None where none could."""
    reason = why_not(device)
    if not operations or (device.type == "cpu" and reason is not None):
        return None
    if reason is None and dtype not in DTYPES:
        reason = f"the model computes in {str(dtype).removeprefix('torch.')}"
    names = ", ".join(operations)
    return names if reason is None else f"not used, torch computes {names}: {reason}"


def with_unit_stride(x: Tensor) -> Tensor:
    """x itself where the entries of a row lie side by side, else a copy; the kernels read rows at any distance."""
    return x if x.stride(-1) == 1 else x.contiguous()


def next_power_of_two(number: int) -> int:
    """The smallest power of two that is at least `number` (>= 1): the width of a block that holds a row."""
    return 1 << (number - 1).bit_length()


def num_warps(block_width: int) -> int:
    """Warps for a program that holds `block_width` numbers of a few tensors: about 16 numbers a thread."""
    return min(16, max(1, block_width // 512))


@cache
def _why_not(device_type: str, is_interpreted: bool) -> str | None:
    if device_type != "cuda" and not is_interpreted:
        return f"Triton has no kernels for the device {device_type}"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if reason := _too_old():
        return reason
    return None if is_interpreted else _why_not_compiled()


def _too_old() -> str | None:
    import triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    oldest = ".".join(map(str, OLDEST_TRITON))
    return f"Triton {triton.__version__} is older than {oldest}" if version < OLDEST_TRITON else None


def _why_not_compiled() -> str | None:
    if torch.version.hip is not None:
        return "the kernels are not tried on ROCm"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST_CAPABILITY:
        return f"compute capability {capability[0]}.{capability[1]} has no bfloat16"
    # Triton builds a small C module for every kernel at its first launch
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler; install gcc, or name yours in CC"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Triton needs Python.h; install the headers of this Python (python3-dev)"
    return None
