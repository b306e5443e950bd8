"""What glibc's allocator does with freed memory (kept for the next step while training, given back between two models),
and how many kernels oneDNN keeps.

Left alone, glibc returns large blocks to the system and asks for them again in the next step; every page then comes
back through a fault that fills it with zeros: 146,000 faults and 4 to 7 % of a step of SmolLM2 with 1,600 tokens.

oneDNN and torch's layer above it each keep up to 1,024 compiled products, and every pass brings new lengths: 10 MB a
pass of SmolLM2, 640 MB in the end. A pass needs about 30 of the linear layers and 6 for every 128 tokens or document.

Called by the commands alone: these settings hold for the whole process.
"""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

SWITCH = "WHET_ALLOCATOR"
# of mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_GLIBC_MMAP_MAX, _GLIBC_LARGEST_THRESHOLD = 65_536, 32 * 2**20
"""what glibc starts with, and where its own adaptation of the thresholds ends"""

KERNEL_CACHES = {"LRU_CACHE_CAPACITY": "192", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "192"}
"""what torch and oneDNN read at their first product"""
NEAR = 0.9
"""of the peak: what one more pass may add to the holes"""
_STATUS = Path("/proc/self/statm")
_state = {"kept": False}


def keep_freed_memory(variables: MutableMapping[str, str] | None = None) -> str:
    """From now on freed memory stays with this process, and few kernels; says what was done, and why where nothing was.

    Nothing where `WHET_ALLOCATOR=system` says so, where the user chose settings or another allocator in the
    environment, and without glibc.
    """
    variables = os.environ if variables is None else variables
    if variables.get(SWITCH) == "system":
        return f"allocator: as it is ({SWITCH}=system)"
    keep_few_kernels(variables)
    chosen = sorted(name for name in variables if _is_a_choice(name))
    if chosen:
        return f"allocator: as chosen by {', '.join(chosen)}"
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return "allocator: the system's (no glibc)"
    mallopt(_ARENA_MAX, 1)  # threads share one heap, or each would keep its own
    # -1: never trim; 0: no block outside the heap, so none is returned when it is freed
    _state["kept"] = bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
    return f"allocator: freed memory is kept for the next step ({SWITCH}=system turns this off)"


def keep_few_kernels(variables: MutableMapping[str, str] | None = None) -> None:
    """Let torch and oneDNN keep few compiled products, as far as the user has not chosen; before the first product.

    A conversation brings a new length with nearly every question: 2.7 MB each with a model of two small layers.
    """
    variables = os.environ if variables is None else variables
    for name, capacity in KERNEL_CACHES.items():
        variables.setdefault(name, capacity)


def _is_a_choice(name: str) -> bool:
    return name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD")


def describe() -> str:
    """For environment.json: `kept` or `system`."""
    return "glibc, freed memory kept" if _state["kept"] else "system"


def trim_near(peak_bytes: int | None) -> bool:
    """Give free pages back where memory is kept and the process is near `peak_bytes`; whether it did.

    Passes of different lengths leave holes that the next one does not fit into, so kept memory grows from pass to
    pass. Once in a while all of it goes back, which costs the page faults of one pass.
    """
    if peak_bytes is None or not _state["kept"] or (held_bytes() or 0) < NEAR * peak_bytes:
        return False
    trim = _glibc("malloc_trim")
    return trim is not None and bool(trim(0))


def held_bytes() -> int | None:
    """The resident set of this process; None where the system does not tell."""
    if not _STATUS.is_file():
        return None
    return int(_STATUS.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


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


def trim() -> None:
    """Give free pages back to the system now; what happens to memory that is freed later stays as it was (glibc)."""
    if (malloc_trim := _glibc("malloc_trim")) is not None:
        malloc_trim(0)


def return_large_blocks() -> None:
    """From now on every block over a megabyte goes back to the system when it is freed (glibc only).

    glibc raises that limit by itself to 32 MB: logits of a few prompts then leave hundreds of megabytes of holes
    (merging SmolLM2 with its proof peaked between 1.4 and 2.0 times the model, and at 1.33 with this).
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1_000_000)


def _glibc(name: str) -> ctypes._NamedFuncPointer | None:
    import ctypes

    return getattr(ctypes.CDLL(None), name, None)
