"""The processor: cores in the limits of the container, threads, instructions for bfloat16, memory. Free of torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from whet.doctor.finding import Finding
from whet.estimate.hardware import (
    FAST_BFLOAT16,
    ROOT,
    free_memory_bytes,
    instructions,
    processor_name,
    say_if_busy,
    usable_cores,
)

_FAST_FLOAT32 = {"avx512f": "AVX-512", "avx2": "AVX2"}
_FEW_BYTES = 4_000_000_000
"""the built-in model trains in half of it; a model of 1B parameters does not"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """What this process may use of the machine."""

    name: str
    num_logical: int
    """hyperthreads that the system shows"""
    num_cores: int
    """physical cores that this process may use, within the limits of its container"""
    instructions: frozenset[str]
    """as the kernel names them; empty where it does not"""
    free_bytes: int | None
    load: float
    """processes that want to run, mean of the last minute"""
    has_compiler: bool


def look_at_processor(root: Path = ROOT) -> Processor:
    """This machine; `root` is another one's file tree, for tests."""
    return Processor(
        name=processor_name(root),
        num_logical=os.cpu_count() or 1,
        num_cores=usable_cores(root),
        instructions=instructions(root),
        free_bytes=free_memory_bytes(root),
        load=os.getloadavg()[0],
        has_compiler=shutil.which(os.environ.get("CXX", "g++")) is not None,
    )


def check_processor(processor: Processor, variables: Mapping[str, str] = os.environ) -> list[Finding]:
    """Instructions, threads, load, memory, compiler."""
    return [_instructions_found(processor), _threads(processor, variables), *_load(processor), _memory(processor),
            _compiler(processor)]  # fmt: skip


def _instructions_found(processor: Processor) -> Finding:
    fast = [words for name, words in FAST_BFLOAT16.items() if name in processor.instructions]
    plain = [words for name, words in _FAST_FLOAT32.items() if name in processor.instructions]
    has = f"{plain[0]}, but " if plain else ""
    found = f"{' and '.join(fast)}: products in bfloat16" if fast else f"{has}neither AMX nor AVX512-BF16: float32"
    return Finding(
        check="processor",
        state="good" if fast else "note",
        found=f"{processor.name}, {found}",
        why="bfloat16 halves the memory of frozen weights, and with AMX it is many times as fast as float32",
        mend="" if fast else "nothing to set (model.dtype: auto knows); a newer server CPU or a GPU is faster",
    )


def _threads(processor: Processor, variables: Mapping[str, str]) -> Finding:
    setting = variables.get("OMP_NUM_THREADS", "")
    cores = processor.num_cores
    limit = f" of {processor.num_logical} logical ones" if cores != processor.num_logical else ""
    may_use = f"{cores} core{'s' * (cores != 1)}{limit} may be used"
    why = "hyperthreads and cores that a container may not use make threads wait for each other"
    if not setting:
        return Finding(
            check="threads", state="good", found=f"{may_use}; OMP_NUM_THREADS is not set: whet takes {cores}", why=why
        )
    if not setting.isdecimal() or int(setting) < 1:
        return Finding(
            check="threads", state="fault", found=f"OMP_NUM_THREADS={setting}, which is no number of threads", why=why,
            mend="unset OMP_NUM_THREADS",
        )  # fmt: skip
    asked = int(setting)
    too_many = asked > cores
    mend = f"unset OMP_NUM_THREADS, or export OMP_NUM_THREADS={cores}"
    return Finding(
        check="threads",
        state="good" if asked == cores else "note",
        found=f"OMP_NUM_THREADS={asked}; {may_use}",
        why=why if too_many or asked == cores else "training on the CPU uses as many cores as there are threads",
        mend="" if asked == cores else mend,
    )


def _load(processor: Processor) -> list[Finding]:
    if say_if_busy(processor.num_cores, processor.load) is None:
        return []
    return [
        Finding(
            check="load",
            state="note",
            found=f"{processor.load:.1f} processes want to run on {processor.num_cores} cores",
            why="threads that wait for each other can take ten times as long beside other work",
            mend="wait until the machine is calm, or train.threads=1",
        )
    ]


def _memory(processor: Processor) -> Finding:
    free = processor.free_bytes
    if free is None:
        return Finding(check="memory", state="note", found="not known here", why="whet then splits steps by trial")
    return Finding(
        check="memory",
        state="good" if free >= _FEW_BYTES else "note",
        found=f"{free / 1e9:.1f} GB free, limits of the container included",
        why="rows of one pass, and whether layers are computed twice, follow from it",
        mend="" if free >= _FEW_BYTES else "end other programs, raise the container's limit, or take a small model",
    )


def _compiler(processor: Processor) -> Finding:
    return Finding(
        check="C++ compiler",
        state="good" if processor.has_compiler else "note",
        found="found" if processor.has_compiler else "none (g++, or what CXX names)",
        why="full fine-tuning on a CPU compiles its layers with it; without one the same run is slower",
        mend="" if processor.has_compiler else "install g++ (Debian: apt install g++), or name yours in CXX",
    )
