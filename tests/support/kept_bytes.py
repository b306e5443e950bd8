"""Bytes that a piece of code leaves behind: after a forward pass, what its backward pass will read."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class KeptBytes(TorchDispatchMode):
    """Bytes of all tensors made inside that something still holds."""

    def __init__(self):
        super().__init__()
        self._storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._note((args, kwargs), is_made_here=False)
        out = func(*args, **(kwargs or {}))
        self._note(out, is_made_here=True)
        return out

    def _note(self, tensors, *, is_made_here):
        for leaf in tree_leaves(tensors):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                num_bytes = storage.nbytes() if is_made_here else 0
                # the weak reference keeps the address from being used again
                self._storages.setdefault(storage._cdata, (StorageWeakRef(storage), num_bytes))

    @property
    def total(self):
        return sum(num_bytes for storage, num_bytes in self._storages.values() if not storage.expired())
