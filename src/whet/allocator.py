"""What glibc's allocator does with freed memory: kept for the next step while training, given back between two models.

Left alone, glibc returns large blocks to the system and asks for them again in the next step; every page then comes
back through a fault that fills it with zeros: 146,000 faults and 4 to 7 % of a step of SmolLM2 with 1,600 tokens.
Called by the commands alone: these settings hold for the whole process.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Mapping

SWITCH = "WHET_ALLOCATOR"
# of mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_GLIBC_MMAP_MAX, _GLIBC_LARGEST_THRESHOLD = 65_536, 32 * 2**20
"""what glibc starts with, and where its own adaptation of the thresholds ends"""

_state = {"kept": False}


def keep_freed_memory(variables: Mapping[str, str] | None = None) -> str:
    """From now on freed memory stays with this process; says what was done, and why where nothing was.

    Nothing where `WHET_ALLOCATOR=system` says so, where the user chose settings or another allocator in the
    environment, and without glibc.
    """
    variables = os.environ if variables is None else variables
    if variables.get(SWITCH) == "system":
        return f"allocator: as it is ({SWITCH}=system)"
    chosen = sorted(name for name in variables if _is_a_choice(name))
    if chosen:
        return f"allocator: as chosen by {', '.join(chosen)}"
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return "allocator: the system's (no glibc)"
    # -1: never trim; 0: no block outside the heap, so none is returned when it is freed
    _state["kept"] = bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
    return f"allocator: freed memory is kept for the next step ({SWITCH}=system turns this off)"


def _is_a_choice(name: str) -> bool:
    return name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD")


def describe() -> str:
    """For environment.json: `kept` or `system`."""
    return "glibc, freed memory kept" if _state["kept"] else "system"


def release_memory() -> None:
    """Free what only reference cycles hold and give the allocator's free pages back to the system (glibc only).

    Training leaves glibc with more than a gigabyte of free blocks that loading the next model does not fit into.
    """
    gc.collect()
    mallopt, trim = _glibc("mallopt"), _glibc("malloc_trim")
    if mallopt is not None and _state["kept"]:
        mallopt(_MMAP_MAX, _GLIBC_MMAP_MAX)
        mallopt(_MMAP_THRESHOLD, _GLIBC_LARGEST_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, 2 * _GLIBC_LARGEST_THRESHOLD)
        _state["kept"] = False
    if trim is not None:
        trim(0)


def return_large_blocks() -> None:
    """From now on every block over a megabyte goes back to the system when it is freed (glibc only).

    glibc raises that limit by itself to 32 MB: logits of a few prompts then leave hundreds of megabytes of holes
    (merging SmolLM2 with its proof peaked between 1.4 and 2.0 times the model, and at 1.33 with this).
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1_000_000)


def _glibc(name: str) -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), name, None)
