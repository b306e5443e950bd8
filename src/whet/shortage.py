"""Which errors mean that memory ran out, what is given back then, and the same work in smaller portions. No torch.

Only what can be nothing else counts: an error that is taken for a shortage is not told as what it is.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from whet import allocator
from whet.errors import OutOfMemoryError, WhetError

MAYBE_SHORTAGE = (MemoryError, RuntimeError)
"""what torch, numpy and Python raise for it, and for much else: to be asked with `is_shortage`"""
_WORDS = (
    # torch's allocator of the host's memory, on Linux and on Windows; its errors have no class of their own
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "std::bad_alloc",
    # memory of the GPU that libraries ask the driver for, past torch's allocator
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Triton Error [CUDA]: out of memory",
)
_Row = TypeVar("_Row")
_Result = TypeVar("_Result")


def is_shortage(error: BaseException) -> bool:
    """Whether `error` says that there was no memory left; whet's own errors have said all there is to say."""
    if isinstance(error, WhetError):
        return False
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    if any(words in str(error) for words in _WORDS):
        return True
    # torch.compile wraps what it meets
    return error.__cause__ is not None and is_shortage(error.__cause__)


def first_line(error: BaseException) -> str:
    """What the error says, without the advice and the stack behind it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def told_as_error() -> Iterator[None]:
    """OutOfMemoryError (exit 9) in place of whatever says inside that memory ran out, where nothing is known of it."""
    try:
        yield
    except MAYBE_SHORTAGE as error:
        if not is_shortage(error):
            raise
        raise OutOfMemoryError(
            f"out of memory: {first_line(error)}",
            mend="fewer rows at a time, a smaller model, or a machine with more memory",
        ) from error


def release() -> None:
    """Give back what nobody uses: reference cycles, free pages of the C library, cached blocks of the GPU's allocator.

    To be called outside of the `except` block: until that ends, the error's frames hold what they were computing with.
    """
    gc.collect()
    allocator.trim()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def in_halves(
    rows: Sequence[_Row], compute: Callable[[Sequence[_Row]], _Result], *, may_halve: bool = True
) -> tuple[list[_Result], int]:
    """`compute(rows)`, or of their halves where memory runs out, down to single rows: results in the order of the
    rows, and how often rows were halved. The last shortage comes out where one row is too much."""
    try:
        return [compute(rows)], 0
    except MAYBE_SHORTAGE as error:
        if not (may_halve and len(rows) > 1 and is_shortage(error)):
            raise
    release()
    middle = len(rows) // 2
    first, num_first = in_halves(rows[:middle], compute)
    second, num_second = in_halves(rows[middle:], compute)
    return first + second, 1 + num_first + num_second
