"""What this machine leaves to a run: free memory and cores, within the limits of the container it runs in.

Linux's files alone; elsewhere what Python knows. `root` is the file system to read, so that tests can lay one out.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
FAST_BFLOAT16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
"""instructions that multiply it, as the kernel and as people name them"""
BUSY_LOAD = 1.5
"""times the cores: above this load, threads wait for each other's turns"""
_LIMIT_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_NO_LIMIT = 1 << 60


def free_memory_bytes(root: Path = ROOT) -> int | None:
    """Memory that new work can take without swapping, or what is left of the container's limit if that is less."""
    free = [limit for limit in (_available_bytes(root), *_left_in_groups(root)) if limit is not None]
    return min(free) if free else None


def usable_cores(root: Path = ROOT, logical: set[int] | None = None) -> int:
    """Physical cores that this process may use, at least 1.

    Two hyperthreads of a core share its multipliers, so they count once. A container's share of processor time counts
    as whole cores, rounded down: a thread that has used up its share stops in the middle, and the others wait for it.
    """
    logical = _own_processors() if logical is None else logical
    siblings = {_read(root / f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list") or str(n) for n in logical}
    return max(1, min([len(siblings), *(int(quota) for quota in _quotas(root))]))


def processor_name(root: Path = ROOT) -> str:
    """As the maker calls it, else the kind of machine."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def instructions(root: Path = ROOT) -> frozenset[str]:
    """What the processor has, as the kernel names it (`avx512_bf16`); empty where it does not tell."""
    lines = _read(root / "proc/cpuinfo").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def multiplies_bfloat16(root: Path = ROOT) -> bool:
    """Whether the processor has instructions for it."""
    return not FAST_BFLOAT16.keys().isdisjoint(instructions(root))


def _own_processors() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def say_if_busy(num_cores: int, load: float | None = None) -> str | None:
    """A sentence when others use this machine so much that threads collapse; None when it is calm."""
    if load is None:
        load = os.getloadavg()[0]
    if load <= BUSY_LOAD * num_cores + 0.5:
        return None
    return (
        f"the machine is busy (load {load:.1f} on {num_cores} {'core' if num_cores == 1 else 'cores'}): threads that "
        "wait for each other can take ten times as long; train.threads=1 is safe"
    )


def _available_bytes(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _left_in_groups(root: Path) -> Iterator[int]:
    """Of each control group with a limit: the limit, less what is used and could not be dropped at once."""
    for folder in _groups(root, "memory"):
        for limit_file, usage_file in _LIMIT_FILES:
            limit, usage = _read(folder / limit_file), _read(folder / usage_file)
            if limit.isdecimal() and usage.isdecimal() and int(limit) < _NO_LIMIT:
                stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
                cached = sum(int(stat.get(name, 0)) for name in ("active_file", "inactive_file"))
                yield max(0, int(limit) - int(usage) + cached)


def _quotas(root: Path) -> Iterator[float]:
    """Processors' worth of time of each control group that has a limit."""
    for folder in _groups(root, "cpu"):
        both = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        ]  # fmt: skip
        if len(both) == 2 and all(number.isdecimal() for number in both) and int(both[1]):
            yield int(both[0]) / int(both[1])


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, the innermost first (version 2 and 1)."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", controller) and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        inner = top / path.lstrip("/")
        # inside a container the path may be the host's, which is not there; its own group is then at the top
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(top) and folder.is_dir())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
