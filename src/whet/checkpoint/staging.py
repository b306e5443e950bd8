"""Copies of a state in the host's memory, which a thread writes while training goes on.

From the host's own memory a copy is made at once. From a GPU it goes into pinned memory in the stream that trains: what
comes after it in the stream changes the tensors only when they are copied, and nobody waits but the thread that writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Named = Mapping[str, Mapping[str, Tensor]]
"""file -> name -> tensor"""


class Staging:
    """Memory for one copy at a time: pinned memory takes long to get, so it is kept from copy to copy.

    Twice the memory of what is copied: weights and Adam's moments, so with an adapter little and with full fine-tuning
    12 bytes per parameter.
    """

    def __init__(self) -> None:
        self._pinned: dict[tuple[str, str], Tensor] = {}

    @torch.no_grad()
    def copy(self, tensors: Named) -> Callable[[], dict[str, dict[str, Tensor]]]:
        """Begin to copy the values as they are now; what is returned waits until they are there, and gives them.

        The copy before must have been written: from a GPU this one goes into its memory.
        """
        copied = {
            file: {name: self._begin((file, name), tensor) for name, tensor in named.items()}
            for file, named in tensors.items()
        }
        if not any(tensor.is_cuda for named in tensors.values() for tensor in named.values()):
            return lambda: copied
        event = torch.cuda.Event()
        event.record()

        def wait() -> dict[str, dict[str, Tensor]]:
            event.synchronize()
            return copied

        return wait

    def new_bytes(self, tensors: Named) -> int:
        """Memory that `copy` would have to get."""
        return sum(
            tensor.nbytes
            for file, named in tensors.items()
            for name, tensor in named.items()
            if not self._has_room((file, name), tensor)
        )

    def _begin(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        if not tensor.is_cuda:
            return tensor.to("cpu", copy=True)
        if not self._has_room(key, tensor):
            self._pinned[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return self._pinned[key].copy_(tensor, non_blocking=True)

    def _has_room(self, key: tuple[str, str], tensor: Tensor) -> bool:
        kept = self._pinned.get(key)
        return kept is not None and (kept.shape, kept.dtype) == (tensor.shape, tensor.dtype)
