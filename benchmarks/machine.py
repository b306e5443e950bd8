"""What a result file says of the machine, and the one place that writes result files."""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "triton", "transformers", "peft", "trl", "accelerate", "liger-kernel", "tokenizers", "numpy")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, instruction sets that matter, memory, GPU."""
    import torch

    info = _cpu_info()
    flags = set(info.get("flags", "").split())
    described: dict[str, Any] = {
        "processor": info.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "bf16": sorted(flags & {"amx_bf16", "avx512_bf16"}),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "platform": platform.platform(terse=True),
        "load_average": list(os.getloadavg()),
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def _cpu_info() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    pairs = (line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def versions() -> dict[str, str]:
    """Python and the packages that a benchmark may compare; absent ones are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_memory_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write_result(name: str, *, claim: str, result: dict[str, Any], command: str | None = None) -> Path:
    """Write `<name>.json` into benchmarks/results (or into $OUT where that is set) and say where."""
    folder = Path(os.environ["OUT"]) if os.environ.get("OUT") else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "claim": claim,
        "command": command or " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": versions(),
        **result,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")
    return path
