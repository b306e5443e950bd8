"""What a rank sends: payloads of its collectives as torch sees them, and bytes that left through its TCP sockets."""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_TCP_INFO_BYTES = 256
_ACKED = 120
"""place of tcpi_bytes_acked in Linux's struct tcp_info"""


class CountedCollectives(TorchDispatchMode):
    """Counts (kind, payload in bytes) of every collective that is called meanwhile, on this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, int]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func.name().removeprefix("c10d::").split(".")[0]
            if name == "allreduce_":
                self._note("all_reduce", *args[0])
            elif name == "_allgather_base_":
                self._note("all_gather", args[0])
            elif name == "_reduce_scatter_base_":
                self._note("reduce_scatter", args[1])
            elif name == "alltoall_base_":
                self._note("all_to_all", args[1])
            else:
                self._note(name)
        return func(*args, **(kwargs or {}))

    def _note(self, kind: str, *tensors: torch.Tensor) -> None:
        self.seen[kind, sum(tensor.nbytes for tensor in tensors)] += 1


def acked_bytes() -> int:
    """Bytes that the other ends of this process's TCP connections have acknowledged so far."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not entry.readlink().as_posix().startswith("socket:"):
                continue
            copy = os.dup(int(entry.name))
        except OSError:
            continue  # closed meanwhile: the folder's own entry
        with socket.socket(fileno=copy) as connection:
            if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                total += struct.unpack_from("<Q", info, _ACKED)[0] if len(info) >= _ACKED + 8 else 0
    return total
