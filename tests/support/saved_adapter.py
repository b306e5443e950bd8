"""What an adapter folder holds, as two values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from whet.models.adapter_source import read_adapter_folder


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(adapter_config, tensors) of an adapter folder, as `merge_adapter` takes them."""
    adapter = read_adapter_folder(folder)
    return adapter.config, adapter.tensors
