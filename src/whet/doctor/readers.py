"""Which of the installed libraries read an environment variable: the name stands in their code, or nobody reads it."""

from __future__ import annotations

import importlib.util
import mmap
import re
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
    names = list(names)
    found: dict[str, list[str]] = {name: [] for name in names}
    if not names:
        return found
    # a string constant of C ends with a zero byte; before it is the end of another one
    whole = re.compile(rb"(?<![A-Za-z0-9_])(" + b"|".join(re.escape(name.encode()) for name in names) + rb")\x00")
    for path in among:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for name in {match.group(1).decode() for match in whole.finditer(content)}:
                found[name].append(path.name)
    return found
