"""How long a checkpoint takes on the disk of a run: a part of one is copied, written, hashed and thrown away."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from whet.checkpoint.manifest import write_manifest
from whet.checkpoint.save import storage_error, write_files
from whet.checkpoint.staging import Staging
from whet.estimate.time import SavePace

SAMPLE_BYTES = 2**31
"""that are written in a try, where a checkpoint has as many: what is small fits into buffers and tells of memory"""
_LITTLE_BYTES = 2**28
"""up to which one try alone would be chance"""
_TENSOR_BYTES = 2**24


def measure_save_pace(output: Path, num_bytes: int, device: torch.device) -> SavePace:
    """Seconds of a try, or medians of three where there is little to write, on the disk that `output` lies on, or will
    lie on; nothing of them stays, and no random state moves.

    `num_bytes` of a checkpoint. StorageError where nothing can be written there.
    """
    folder = next(each for each in (output, *output.parents) if each.is_dir())
    own = torch.Generator(device).manual_seed(0)  # the run's random state stays as it is
    size = max(1, min(num_bytes, SAMPLE_BYTES) // 4)
    numbers = torch.rand(min(size, _TENSOR_BYTES // 4), device=device, generator=own)
    parts = [numbers] * (size // len(numbers)) + [numbers[: size % len(numbers)]]
    state = {"model.safetensors": {str(i): part for i, part in enumerate(parts)}}
    tries = [_try(folder, state) for _ in range(3 if 4 * size <= _LITTLE_BYTES else 1)]
    return SavePace(
        copy_seconds=statistics.median(copied for copied, _ in tries) / (4 * size),
        write_seconds=statistics.median(written for _, written in tries) / (4 * size),
    )


def _try(folder: Path, state: dict[str, dict[str, Tensor]]) -> tuple[float, float]:
    """Seconds until the copy is there, and until it is on the disk."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".whet-save-pace.", suffix=".tmp") as name:
            started = time.monotonic()
            copy = Staging().copy(state)()
            copied = time.monotonic()
            write_files(Path(name), tensors=copy, documents={}, files={})
            write_manifest(Path(name), step=0)
            return copied - started, time.monotonic() - copied
    except (OSError, SafetensorError) as error:
        raise storage_error(error, folder / "checkpoint") from error
