"""Settings of glibc's allocator: made once, left alone where somebody chose, taken back between two models."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import partial

import pytest

from whet import allocator

needs_glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")

FAULTS = """
import resource, sys
import numpy as np
from whet import allocator

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        np.ones(8_000_000)  # 64 MB: above every threshold that glibc chooses by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

alone = faults()
print(allocator.keep_freed_memory({}), file=sys.stderr)
faults()
kept = faults()
held = allocator.describe()
assert not allocator.trim_near(None) and not allocator.trim_near(2 * allocator.held_bytes())
assert allocator.trim_near(allocator.held_bytes())
trimmed = faults()
allocator.release_memory()
assert not allocator.trim_near(1)
print(alone, kept, trimmed, faults(), held, allocator.describe(), sep="|")
"""


@needs_glibc
def test_pages_come_once_while_memory_is_kept_and_go_back_when_it_is_released():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    alone, kept, trimmed, released, held, after = done.stdout.strip().split("|")
    assert int(alone) > 8 * 64_000_000 // 4096 * 0.9 or int(alone) > 8 * 20, "huge pages make fewer faults"
    assert int(kept) < int(alone) / 10
    assert int(kept) < int(trimmed) < int(alone) / 2, "the pages of one array come back, and only once"
    assert int(released) > int(alone) / 2
    assert (held, after) == ("glibc, freed memory kept", "system")


LENGTHS = """
import sys
import torch
from whet import allocator

if "bounded" in sys.argv:
    allocator.keep_freed_memory()
torch.set_num_threads(1)
weights = [torch.randn(256, n).bfloat16() for n in (64, 128, 192, 256, 320, 384)]

def products(lengths):
    for length in lengths:
        for weight in weights:
            torch.ones(length, weight.shape[1], dtype=torch.bfloat16) @ weight.T

products(range(200, 220))
before = allocator.held_bytes()
products(range(220, 340))
print(allocator.held_bytes() - before)
"""


@pytest.mark.slow
@needs_glibc
def test_products_of_ever_new_lengths_leave_little_behind():
    # a command that ran in this process before left its choice in the environment
    bare = {name: value for name, value in os.environ.items() if name not in allocator.KERNEL_CACHES}
    run = partial(subprocess.run, capture_output=True, text=True, check=True, env=bare)
    grown = [int(run([sys.executable, "-c", LENGTHS, word]).stdout) for word in ("as it is", "bounded")]
    assert grown[1] < max(20_000_000, grown[0] / 3), grown


def test_capacities_that_somebody_chose_stay(monkeypatch):
    monkeypatch.setattr(allocator, "_state", {"kept": False})
    monkeypatch.setattr(allocator, "_glibc", lambda _: None)
    variables = {"LRU_CACHE_CAPACITY": "7"}
    allocator.keep_freed_memory(variables)
    assert variables == {"LRU_CACHE_CAPACITY": "7", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "192"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WHET_ALLOCATOR": "system"}, "WHET_ALLOCATOR=system"),
        ({"MALLOC_ARENA_MAX": "2", "PATH": "/bin"}, "as chosen by MALLOC_ARENA_MAX"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "LD_PRELOAD": "x.so"}, "GLIBC_TUNABLES, LD_PRELOAD"),
    ],
)
def test_what_somebody_chose_stays(monkeypatch, variables, expected):
    monkeypatch.setattr(allocator, "_state", {"kept": False})  # an earlier test may have run a command here
    monkeypatch.setattr(allocator, "_glibc", lambda _: pytest.fail("the allocator was touched"))
    assert expected in allocator.keep_freed_memory(variables)
    assert allocator.describe() == "system"


def test_without_glibc_it_says_so(monkeypatch):
    monkeypatch.setattr(allocator, "_glibc", lambda _: None)
    assert "no glibc" in allocator.keep_freed_memory({})
    allocator.release_memory()
    allocator.return_large_blocks()


def test_few_compiled_products_are_kept_unless_the_user_says_how_many():
    variables = {"LRU_CACHE_CAPACITY": "7"}
    allocator.keep_few_kernels(variables)
    assert variables == allocator.KERNEL_CACHES | {"LRU_CACHE_CAPACITY": "7"}
