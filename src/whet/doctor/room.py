"""Room on the disks that a run writes to, and whether they can be written. Free of torch."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from whet.cache import cache_folder
from whet.doctor.finding import Finding

_FEW_BYTES = 2_000_000_000
"""some checkpoints of the built-in model, and its weights in the cache"""


def check_room(folder: Path) -> list[Finding]:
    """`folder` (where runs go), whet's cache, the hub's, temporary files."""
    return [
        _place("disk", folder, "checkpoints and final weights of a run; a full disk stops it (exit 5)",
               "free some space, or set `output` in the recipe to a larger disk"),
        _place("cache", cache_folder(), "tokens, hashes, base answers and the built-in model are kept between runs",
               "set WHET_CACHE to a folder that you can write, on a larger disk"),
        _place("cache of the hub", hub_cache(), "models and datasets of the hub are kept there",
               "set HF_HOME to a folder that you can write, on a larger disk"),
        _place("temporary files", Path(tempfile.gettempdir()), "compilers and libraries write there",
               "set TMPDIR to a folder that you can write"),
    ]  # fmt: skip


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it fetched."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _place(check: str, folder: Path, why: str, mend: str) -> Finding:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir() or not _can_write(existing):
        return Finding(check=check, state="fault", found=f"{folder} cannot be written", why=why, mend=mend)
    free = shutil.disk_usage(existing).free
    there = "" if existing == folder else ", made when it is needed"
    return Finding(
        check=check,
        state="good" if free >= _FEW_BYTES else "note",
        found=f"{folder}: {free / 1e9:.1f} GB free{there}",
        why=why,
        mend="" if free >= _FEW_BYTES else mend,
    )


def _can_write(folder: Path) -> bool:
    """Asked by writing: rights alone do not know of disks that are mounted to be read."""
    try:
        descriptor, path = tempfile.mkstemp(dir=folder, prefix=".whet-doctor-")
    except OSError:
        return False
    os.close(descriptor)
    Path(path).unlink(missing_ok=True)
    return True
