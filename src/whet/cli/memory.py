"""Hand memory back between two models in one process."""

from __future__ import annotations

import ctypes
import gc

_M_MMAP_THRESHOLD = -3
"""of mallopt(3)"""


def release_memory() -> None:
    """Free what only reference cycles hold and give the allocator's free pages back to the system (glibc only).

    Training leaves glibc with more than a gigabyte of free blocks that loading the next model does not fit into.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def return_large_blocks() -> None:
    """From now on every block over a megabyte goes back to the system when it is freed (glibc only).

    glibc raises that limit by itself to 32 MB: logits of a few prompts then leave hundreds of megabytes of holes
    (merging SmolLM2 with its proof peaked between 1.4 and 2.0 times the model, and at 1.33 with this).
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, 1_000_000)
