"""Operations for which the host would have to wait for a GPU, counted where there is none.

    with HostWaits() as waits:
        ...
    assert waits.found == ["tolist"]

The host must know what a tensor holds for a number in Python and for a shape that depends on values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_READS = {
    _aten._local_scalar_dense.default: "item",
    _aten.equal.default: "equal",
    _aten.nonzero.default: "nonzero",
    _aten.masked_select.default: "masked_select",
    _aten.unique_consecutive.default: "unique",
    _aten._unique2.default: "unique",
    _aten.bincount.default: "bincount",
    _aten.repeat_interleave.Tensor: "repeat_interleave",
}
_INDEXES = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}


class HostWaits(TorchDispatchMode):
    """Notes in `found` what was waited for, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._tolist = Tensor.tolist

    def __enter__(self) -> HostWaits:
        def tolist(tensor: Tensor) -> Any:
            self.found.append("tolist")
            return self._tolist(tensor)

        Tensor.tolist = tolist  # type: ignore[method-assign]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        Tensor.tolist = self._tolist  # type: ignore[method-assign]
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS:
            self.found.append(_READS[func])
        elif func in _INDEXES and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        ):
            self.found.append("boolean index")
        return func(*args, **(kwargs or {}))
