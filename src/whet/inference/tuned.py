"""What a run or an adapter folder makes of its base model in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from whet import cache
from whet.checkpoint.manifest import refuse_changed
from whet.checkpoint.names import is_sharded, weight_shards
from whet.errors import StorageError
from whet.models.adapter_source import read_adapter_folder
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, FULL_WEIGHTS
from whet.models.folder import weight_files
from whet.models.load import LoadedModel
from whet.models.merge import merge_adapter
from whet.models.weight_files import INDEX, list_tensors, read_tensor


def final_weights(run_folder: Path) -> tuple[Path, ...]:
    """The adapter or model files that a finished run left at its root, or a checkpoint's; StorageError when there are
    none."""
    if (run_folder / ADAPTER_WEIGHTS).is_file():
        return (run_folder / ADAPTER_WEIGHTS,)
    if any((run_folder / name).is_file() for name in (FULL_WEIGHTS, INDEX)):
        return weight_files(run_folder)
    if is_sharded(run_folder):
        return weight_shards(run_folder)
    raise StorageError(
        "has no final weights yet", where=str(run_folder), mend="let the run finish: whet train with its recipe"
    )


def name_final_weights(run_folder: Path) -> str:
    """What the weights are and the SHA-256 of their file; of several files, of the list of their sums."""
    files = final_weights(run_folder)
    if len(files) == 1:
        return f"{files[0].name} {cache.digest_of(files[0])}"
    sums = "".join(f"{cache.digest_of(path)}  {path.name}\n" for path in files)
    return f"{FULL_WEIGHTS} {hashlib.sha256(sums.encode()).hexdigest()}"


def load_tuned(loaded: LoadedModel, folder: Path) -> None:
    """Turn the base model in memory into the tuned model of `folder`, in place: an adapter is merged in float32 and
    cast once, a full fine-tuning's weights take the base's place.

    StorageError when the folder's weights are of another base, or not those that were written.
    """
    files = final_weights(folder)
    # safetensors has no checksum: a flipped bit would be evaluated as what was trained
    refuse_changed(folder, [ADAPTER_CONFIG, *(path.name for path in files)])
    if files[0].name == ADAPTER_WEIGHTS:
        adapter = read_adapter_folder(folder)
        adapter.refuse_other_base(loaded.identity)
        merge_adapter(loaded.model, adapter.config, adapter.tensors)
        return
    named = dict(loaded.model.named_parameters())
    saved = list_tensors(files)
    if set(saved) != set(named):
        raise StorageError(f"{FULL_WEIGHTS} does not belong to this base model", where=str(folder))
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(read_tensor(saved[name]))
