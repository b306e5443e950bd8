"""A checkpoint that all ranks write together: each its own blocks, rank 0 what is no block and, last, the manifest.

    checkpoint-40/
        weights-shard-00001-of-00004.safetensors     blocks of weights that rank 0 wrote; then those of ranks 1, 2, 3
        optimizer-shard-00001-of-00004.safetensors   blocks of Adam's moments
        shards.json                                  the number of ranks, and the shape of every whole tensor
        optimizer.safetensors                        numbers of the optimizer that every rank has alike: its steps
        trainer_state.json ...                       as in every checkpoint
        manifest.json                                SHA-256 of all of it

Shards are the files of torch.distributed.checkpoint's safetensors storage: a block's place in its tensor stands in the
header of its file, and torch's HuggingFaceStorageReader reads them (docs/decisions/0017-sharded-checkpoints.md).
`write_part` waits for no other rank, so a thread may run it while the ranks train; its report says what was written.
When the reports of all ranks are there, `make_whole` on rank 0 turns the draft into a checkpoint by one rename.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from whet import cache
from whet.atomic import file_mode, sync_file
from whet.checkpoint.blocks import Block
from whet.checkpoint.manifest import Manifest, record
from whet.checkpoint.names import SHARDS, checkpoint_folder, shard_name
from whet.checkpoint.save import put_in_place, storage_error, sync_lines, write_files
from whet.errors import StorageError

Kind = Literal["weights", "optimizer"]
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one rank writes of a checkpoint."""

    rank: int
    num_ranks: int
    blocks: Mapping[Kind, Mapping[str, Block]]
    shapes: Mapping[str, Sequence[int]]
    """of every whole tensor that all ranks write together"""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """file -> name -> tensor, whole; of rank 0 alone, like what follows"""
    documents: Mapping[str, Any]
    files: Mapping[str, bytes]


def write_part(run_folder: Path, *, step: int, part: Part) -> str:
    """Write `part` into the draft of checkpoint-`step`: every file synced, read back and hashed.

    Returns a report in JSON. That the disk refused stands in it too: all ranks must hear of it.
    """
    draft = _draft(run_folder, step)
    try:
        draft.mkdir(exist_ok=True)
        written = _write_blocks(draft, part)
        if part.rank == 0:
            shards = {"format_version": FORMAT_VERSION, "num_ranks": part.num_ranks, "shapes": dict(part.shapes)}
            documents = {**part.documents, SHARDS: shards}
            written += write_files(draft, tensors=part.tensors, documents=documents, files=part.files)
        sums = {path.name: [cache.digest_of(path), path.stat().st_size] for path in written}
    except (OSError, SafetensorError) as error:
        described = storage_error(error, checkpoint_folder(run_folder, step))
        return json.dumps({"error": described.what, "mend": described.mend})
    sizes = {name: block.tensor.numel() for blocks in part.blocks.values() for name, block in blocks.items()}
    return json.dumps({"files": sums, "num_elements": sizes})


def refuse_failed(run_folder: Path, *, step: int, reports: Sequence[str]) -> None:
    """StorageError, on every rank that calls it, when a rank could not write its part."""
    for rank, report in enumerate(map(json.loads, reports)):
        if "error" in report:
            raise StorageError(
                f"rank {rank} could not write its part: {report['error']}",
                where=str(checkpoint_folder(run_folder, step)),
                mend=report["mend"],
            )


def make_whole(run_folder: Path, *, step: int, reports: Sequence[str]) -> Path:
    """Turn the draft that all ranks wrote into checkpoint-`step`; rank 0 only. `reports` are in the order of the ranks.

    StorageError when the parts do not make up every tensor, or when a rank wrote to another disk.
    """
    draft, target = _draft(run_folder, step), checkpoint_folder(run_folder, step)
    parts = [json.loads(report) for report in reports]
    try:
        sync_lines(run_folder)
        _check_files(draft, parts, target)
        _check_sizes(draft, parts, target)
        sums = {name: sum_and_size for part in parts for name, sum_and_size in part["files"].items()}
        manifest = Manifest(
            step=step,
            sha256={name: digest for name, (digest, _) in sorted(sums.items())},
            bytes={name: size for name, (_, size) in sorted(sums.items())},
        )
        record(draft, manifest)
        put_in_place(draft, target)
    except OSError as error:
        raise storage_error(error, target) from error
    return target


def _draft(run_folder: Path, step: int) -> Path:
    """The same for all ranks. A crash leaves it; `remove_leftovers` finds it by its name."""
    return run_folder / f".{checkpoint_folder(run_folder, step).name}.tmp"


def _write_blocks(draft: Path, part: Part) -> list[Path]:
    written = []
    for kind, blocks in part.blocks.items():
        if not blocks:  # another rank has the same
            continue
        path = draft / shard_name(kind, part.rank, part.num_ranks)
        plain = {name: block.tensor.detach().cpu().contiguous() for name, block in blocks.items()}
        places = {name: {"saved_offsets": block.offsets} for name, block in blocks.items()}
        # safetensors puts several entries of a header in any order: equal values would make other files
        save_file(plain, path, metadata={"DCP_SHARDING_INFO": json.dumps(places)})
        path.chmod(file_mode())
        sync_file(path)
        _read_back(path, plain)
        written.append(path)
    return written


def _read_back(path: Path, expected: Mapping[str, Tensor]) -> None:
    """safetensors writes some entries that it cannot read; a file must open and list what was to be in it."""
    with safe_open(path, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if found != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
        raise StorageError(f"{path.name} does not hold what was written", where=str(path))


def _check_files(draft: Path, parts: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Rank 0 sees the files of all ranks, and no other."""
    reported = {name: (rank, size) for rank, part in enumerate(parts) for name, (_, size) in part["files"].items()}
    found = {path.name: path.stat().st_size for path in draft.iterdir()}
    for name, (rank, size) in reported.items():
        if found.get(name) != size:
            raise StorageError(
                f"{name}, which rank {rank} wrote, is not in the folder of rank 0",
                where=str(target),
                mend="put `output` on storage that all ranks share",
            )
    if strange := sorted(found.keys() - reported.keys()):
        raise StorageError(f"{strange[0]} does not belong to the checkpoint", where=str(target))


def _check_sizes(draft: Path, parts: Sequence[Mapping[str, Any]], target: Path) -> None:
    """The blocks of all ranks together are as large as the tensors: nothing is missing, nothing was written twice."""
    shapes: dict[str, list[int]] = json.loads((draft / SHARDS).read_text(encoding="utf-8"))["shapes"]
    for name, shape in shapes.items():
        num_written = sum(part["num_elements"].get(name, 0) for part in parts)
        if num_written != math.prod(shape):
            raise StorageError(
                f"the ranks wrote {num_written:,} of the {math.prod(shape):,} numbers of {name}", where=str(target)
            )
