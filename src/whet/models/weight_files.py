"""Safetensors read and written one tensor at a time, so that a model passes through with memory for one of its tensors.

The `safetensors` library writes a file from tensors that are all in memory, and keeps what was read mapped as long as
the file is open. Here a file is opened per tensor, and the header is written first: it only needs names, shapes and
dtypes, which are known before the weights are made.

A checkpoint of several ranks holds a tensor in pieces, in as many files; where each begins in the whole stands in the
header of its file, as torch.distributed.checkpoint writes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from whet.errors import NonFiniteError, StorageError

INDEX = "model.safetensors.index.json"
PIECES = "DCP_SHARDING_INFO"
"""in the header of a file with pieces: name -> `saved_offsets`"""
_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPiece:
    """What one file holds of a tensor: all of it, or a block."""

    path: Path
    offsets: tuple[int, ...]
    """where the block begins in the tensor, by dimension"""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A weight on the disk. Invariant: the pieces are as large as the tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[StoredPiece, ...]


def list_tensors(files: tuple[Path, ...]) -> dict[str, StoredTensor]:
    """Every tensor of `files` by name, read from their headers.

    StorageError when it is no floating-point weight, or when pieces of it are in none of the files.
    """
    dtypes: dict[str, torch.dtype] = {}
    pieces: dict[str, list[StoredPiece]] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            offsets = json.loads((file.metadata() or {}).get(PIECES, "{}"))
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                stored = file.get_slice(name)
                if stored.get_dtype() not in _DTYPES:
                    raise StorageError(f"{name} holds {stored.get_dtype()}, not plain weights", where=str(path))
                dtypes[name], shape = _DTYPES[stored.get_dtype()], tuple(stored.get_shape())
                if name in offsets:
                    begin = tuple(offsets[name]["saved_offsets"])
                    pieces.setdefault(name, []).append(StoredPiece(path=path, offsets=begin, shape=shape))
                else:
                    pieces[name] = [StoredPiece(path=path, offsets=(0,) * len(shape), shape=shape)]
    return {name: _joined(name, dtypes[name], tuple(of_name)) for name, of_name in pieces.items()}


def _joined(name: str, dtype: torch.dtype, pieces: tuple[StoredPiece, ...]) -> StoredTensor:
    ends = [[begin + size for begin, size in zip(p.offsets, p.shape, strict=True)] for p in pieces]
    shape = tuple(max(sizes) for sizes in zip(*ends, strict=True))
    if sum(math.prod(piece.shape) for piece in pieces) != math.prod(shape):
        raise StorageError(f"{name} is not there as a whole: pieces are missing", where=str(pieces[0].path.parent))
    return StoredTensor(name=name, shape=shape, dtype=dtype, pieces=pieces)


def read_tensor(stored: StoredTensor) -> Tensor:
    """The tensor, in the dtype of its file; made of its pieces one after the other."""
    if len(stored.pieces) == 1:
        return _read_piece(stored.name, stored.pieces[0])
    tensor = torch.empty(stored.shape, dtype=stored.dtype)
    for piece in stored.pieces:
        block = tuple(slice(o, o + size) for o, size in zip(piece.offsets, piece.shape, strict=True))
        tensor[block] = _read_piece(stored.name, piece)
    return tensor


def _read_piece(name: str, piece: StoredPiece) -> Tensor:
    with safe_open(piece.path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def write_sharded(
    folder: Path,
    shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    read: Callable[[str], Tensor],
    *,
    max_shard_bytes: int,
) -> list[Path]:
    """Write `read(name)` of every name, cast to its dtype, as `model.safetensors` or as shards with an index.

    Peak memory is one tensor with its cast. Returns the files.
    """
    shards = plan_shards({name: _num_bytes(*entry) for name, entry in shapes.items()}, max_shard_bytes)
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for name, members in zip(names, shards, strict=True):
        _write_file(folder / name, {member: shapes[member] for member in members}, read)
    if len(shards) > 1:
        total = sum(_num_bytes(*entry) for entry in shapes.values())
        of_tensor = {member: name for name, members in zip(names, shards, strict=True) for member in members}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(of_tensor.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return [folder / name for name in names]


def plan_shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Names in order, cut into groups of at most `max_bytes`; a tensor larger than that is alone in its group."""
    groups: list[list[str]] = []
    num_bytes = 0
    for name, size in sizes.items():
        if not groups or num_bytes + size > max_bytes:
            groups.append([])
            num_bytes = 0
        groups[-1].append(name)
        num_bytes += size
    return groups


def _write_file(
    path: Path, shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]], read: Callable[[str], Tensor]
) -> None:
    """One file in the format of safetensors: length of the header, header as JSON, the tensors end to end."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, dtype) in shapes.items():
        end = offset + _num_bytes(shape, dtype)
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name, (shape, dtype) in shapes.items():
            tensor = read(name)
            assert tuple(tensor.shape) == shape, f"{name}: {tuple(tensor.shape)} is not {shape}"
            flat = tensor.detach().to("cpu", dtype).contiguous().reshape(-1)
            if not bool(torch.isfinite(flat).all()):
                raise NonFiniteError(f"{name} holds NaN or infinity in {dtype}", mend="choose float32, or another run")
            file.write(flat.view(torch.uint8).numpy().data)


def _num_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize
