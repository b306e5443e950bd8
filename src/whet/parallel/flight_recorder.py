"""torch's flight recorder: which NCCL collectives this rank has queued, started and finished, as JSON.

torch writes its own dump as a pickle; so that one is switched off and the JSON form is taken.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from whet.atomic import write_bytes
from whet.errors import StorageError
from whet.parallel.status import FOLDER

_SETTINGS = {
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",  # its name before torch 2.9
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
}


def switch_on() -> None:
    """Before the process group of GPUs is made; what the user has set stays."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


def write(run_folder: Path, rank: int) -> Path | None:
    """`RUN/ranks/rank-N.nccl.json`; None where there is no NCCL or nothing was recorded."""
    import torch

    # torch gives no public name for it
    dump = getattr(torch._C._distributed_c10d, "_dump_nccl_trace_json", None)
    if dump is None or not torch.cuda.is_available():
        return None
    trace = dump()
    content = trace if isinstance(trace, bytes) else str(trace).encode()
    try:
        if not json.loads(content).get("entries"):
            return None
        path = run_folder / FOLDER / f"rank-{rank}.nccl.json"
        write_bytes(path, content)
    except (ValueError, StorageError) as error:
        sys.stderr.write(f"NCCL's flight record could not be written: {error}\n")
        return None
    return path
