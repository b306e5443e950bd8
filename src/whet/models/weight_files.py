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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from whet.errors import NonFiniteError, StorageError
from whet.json_text import read_json

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

    StorageError when a file is damaged, a tensor is no floating-point weight, or pieces do not make up a tensor.
    """
    pieces: dict[str, list[StoredPiece]] = {}
    dtypes: dict[str, set[torch.dtype]] = {}
    for path in files:
        try:
            for name, dtype, piece in _pieces_of(path):
                pieces.setdefault(name, []).append(piece)
                dtypes.setdefault(name, set()).add(dtype)
        except SafetensorError as error:
            raise StorageError(f"is damaged: {error}", where=str(path), mend="fetch or save it anew") from error
    for name, found in dtypes.items():
        if len(found) > 1:
            raise StorageError(f"{name} is there in two dtypes", where=str(pieces[name][0].path.parent))
    return {name: _joined(name, dtypes[name].pop(), tuple(of_name)) for name, of_name in pieces.items()}


def _pieces_of(path: Path) -> Iterator[tuple[str, torch.dtype, StoredPiece]]:
    """Name, dtype and place of everything in one file."""
    with safe_open(path, framework="pt") as file:
        offsets = _offsets(file.metadata() or {}, path)
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            stored = file.get_slice(name)
            if stored.get_dtype() not in _DTYPES:
                raise StorageError(f"{name} holds {stored.get_dtype()}, not plain weights", where=str(path))
            shape = tuple(stored.get_shape())
            begin = offsets.get(name, (0,) * len(shape))
            if len(begin) != len(shape):
                raise StorageError(f"{name} begins at {begin}, but its shape is {shape}", where=str(path))
            yield name, _DTYPES[stored.get_dtype()], StoredPiece(path=path, offsets=begin, shape=shape)


def _offsets(header: Mapping[str, str], path: Path) -> dict[str, tuple[int, ...]]:
    """Where each piece of the file begins in its tensor."""
    try:
        places = {name: tuple(place["saved_offsets"]) for name, place in read_json(header.get(PIECES, "{}")).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"says nothing clear of its pieces ({error})", where=str(path)) from error
    if not all(type(begin) is int and begin >= 0 for place in places.values() for begin in place):
        raise StorageError("has pieces that begin nowhere", where=str(path))
    return places


def _joined(name: str, dtype: torch.dtype, pieces: tuple[StoredPiece, ...]) -> StoredTensor:
    folder = str(pieces[0].path.parent)
    if len({len(piece.shape) for piece in pieces}) > 1 or any(_overlap(a, b) for a, b in combinations(pieces, 2)):
        raise StorageError(f"{name} is there twice", where=folder)
    ends = [[begin + size for begin, size in zip(p.offsets, p.shape, strict=True)] for p in pieces]
    shape = tuple(max(sizes) for sizes in zip(*ends, strict=True))
    if sum(math.prod(piece.shape) for piece in pieces) != math.prod(shape):
        raise StorageError(f"{name} is not there as a whole: pieces are missing", where=folder)
    return StoredTensor(name=name, shape=shape, dtype=dtype, pieces=pieces)


def _overlap(a: StoredPiece, b: StoredPiece) -> bool:
    """Whether two blocks share a number."""
    sides = zip(a.offsets, a.shape, b.offsets, b.shape, strict=True)
    return all(max(start, other) < min(start + size, other + length) for start, size, other, length in sides)


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
