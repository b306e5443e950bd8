"""Which of the installed libraries read an environment variable: the name stands in their code, or nobody reads it."""

from __future__ import annotations

import importlib.util
import mmap
from collections.abc import Iterable
from pathlib import Path


def libraries() -> list[Path]:
    """torch's own libraries and the NCCL that is installed beside it. Imports nothing."""
    found: list[Path] = []
    for package, pattern in (("torch", "lib/libtorch*.so"), ("nvidia", "nccl/lib/libnccl.so*")):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            found += sorted(Path(place).glob(pattern))
    # containers bring a NCCL of the system
    return found + sorted(Path("/usr/lib").glob("*-linux-gnu/libnccl.so*"))


def readers(names: Iterable[str], among: Iterable[Path]) -> dict[str, list[str]]:
    """Name of a variable -> file names of the libraries that hold it as a whole string."""
    found: dict[str, list[str]] = {name: [] for name in names}
    for path in among if found else ():
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for name, holders in found.items():
                if _holds(content, name.encode()):
                    holders.append(path.name)
    return found


def _holds(content: mmap.mmap, name: bytes) -> bool:
    """A string constant of C ends with a zero byte; before it is the end of another one."""
    at = content.find(name + b"\0")
    while at > 0 and (content[at - 1 : at].isalnum() or content[at - 1] == ord("_")):
        at = content.find(name + b"\0", at + 1)
    return at >= 0
