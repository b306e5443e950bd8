"""What a run or an adapter folder makes of its base model in memory."""

from __future__ import annotations

from pathlib import Path

import torch

from whet.errors import StorageError
from whet.models.adapter_source import read_adapter_folder
from whet.models.adapters import ADAPTER_WEIGHTS, FULL_WEIGHTS
from whet.models.load import LoadedModel
from whet.models.merge import merge_adapter


def final_weights(run_folder: Path) -> Path:
    """The adapter or model file that a finished run left at its root; StorageError when there is none."""
    for name in (ADAPTER_WEIGHTS, FULL_WEIGHTS):
        if (run_folder / name).is_file():
            return run_folder / name
    raise StorageError(
        "has no final weights yet", where=str(run_folder), mend="let the run finish: whet train with its recipe"
    )


def load_tuned(loaded: LoadedModel, folder: Path) -> None:
    """Turn the base model in memory into the tuned model of `folder`, in place: an adapter is merged in float32 and
    cast once, a full fine-tuning's weights take the base's place.

    StorageError when the folder's weights are of another base.
    """
    from safetensors.torch import load_file

    if final_weights(folder).name == ADAPTER_WEIGHTS:
        adapter = read_adapter_folder(folder)
        adapter.refuse_other_base(loaded.identity)
        merge_adapter(loaded.model, adapter.config, adapter.tensors)
        return
    named = dict(loaded.model.named_parameters())
    saved = load_file(folder / FULL_WEIGHTS)
    if set(saved) != set(named):
        raise StorageError(f"{FULL_WEIGHTS} does not belong to this base model", where=str(folder))
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(saved[name])
