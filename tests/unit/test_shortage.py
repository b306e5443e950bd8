"""What says that memory ran out, and what does not."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from whet.errors import OutOfMemoryError
from whet.shortage import first_line, in_halves, is_shortage, told_as_error

ON_CPU = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4611686018427387904 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(ON_CPU),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype("float64")),
    ],
    ids=lambda error: first_line(error)[:30],
)
def test_a_shortage_of_memory_is_known(error):
    assert is_shortage(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("could not create a primitive"),
        ValueError("out of memory"),
        OSError(12, "Cannot allocate memory"),
        KeyboardInterrupt(),
        OutOfMemoryError("whet has said so already"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:40],
)
def test_another_error_is_none(error):
    assert not is_shortage(error)


def test_what_a_compiler_wraps_is_known_by_its_cause():
    wrapped = RuntimeError("backend='inductor' raised")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory.")
    assert is_shortage(wrapped)
    wrapped.__cause__ = RuntimeError("another")
    assert not is_shortage(wrapped)


def test_torchs_own_error_of_the_host_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_shortage(caught.value) and "DefaultCPUAllocator" in first_line(caught.value)


def test_rows_are_halved_until_they_fit_and_come_back_in_order():
    sizes = []

    def compute(rows):
        sizes.append(len(rows))
        if len(rows) > 2:
            raise MemoryError
        return list(rows)

    found, num_halved = in_halves(list(range(7)), compute)
    assert [row for part in found for row in part] == list(range(7))
    assert sizes == [7, 3, 1, 2, 4, 2, 2] and num_halved == 3


def test_one_row_that_does_not_fit_and_rows_that_may_not_be_halved_are_an_error():
    def compute(_rows):
        raise MemoryError

    with pytest.raises(MemoryError):
        in_halves([1, 2, 3], compute)
    sizes = []
    with pytest.raises(MemoryError):
        in_halves([1, 2], lambda rows: (sizes.append(len(rows)), compute(rows)), may_halve=False)
    assert sizes == [2]


def test_halves_begin_when_nothing_of_the_failed_attempt_is_left():
    alive = []

    class Activations:
        pass

    def compute(rows):
        gc.collect()
        assert not [each for each in alive if each() is not None]
        kept = Activations()
        alive.append(weakref.ref(kept))
        if len(rows) > 1:
            raise MemoryError
        return rows[0]

    assert in_halves([1, 2], compute)[0] == [1, 2]


def test_told_as_error_has_exit_code_9_and_lets_others_pass():
    with pytest.raises(OutOfMemoryError, match="DefaultCPUAllocator") as caught, told_as_error():
        raise RuntimeError(ON_CPU)
    assert caught.value.exit_code == 9 and caught.value.mend
    with pytest.raises(RuntimeError, match="shapes"), told_as_error():
        raise RuntimeError("shapes")
