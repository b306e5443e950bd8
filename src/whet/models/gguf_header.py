"""What a GGUF file says of itself, held against its size before a library reads it.

The reader of the package `gguf` believes every count that it finds: an array of 2^60 entries keeps it busy for ever.

    GGUF  version  number of tensors  number of pairs  (key, type, value)...  (name, shape, type, place)...  data
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from pathlib import Path

from whet.errors import HubError

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""type of a value -> its bytes; texts and arrays have none"""
_WHOLE_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
_MAX_DIMENSIONS = 4
_DEFAULT_ALIGNMENT, _MAX_ALIGNMENT = 32, 1 << 16
_SMALLEST_PAIR, _SMALLEST_TENSOR = 13, 24


class _DamagedError(ValueError):
    """What is wrong with the file."""


def check_gguf(path: Path, block_sizes: Callable[[int], tuple[int, int]]) -> None:
    """HubError unless every count, text and tensor of the file lies within it.

    `block_sizes`: numbers and bytes of a block of a tensor type; ValueError for a type that there is not.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _Walk(content).whole(block_sizes)
    except ValueError as error:  # of an empty file, too
        raise HubError(f"is no whole GGUF file ({error})", where=str(path), mend="fetch it anew") from error


def read_header(path: Path) -> tuple[dict[str, int | str], set[str]]:
    """(whole numbers, texts and lengths of arrays by their keys; names of the tensors). HubError for another file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Walk(content).facts()
    except ValueError as error:
        raise HubError(f"has no whole GGUF header ({error})", where=str(path), mend="fetch it anew") from error


class _Walk:
    """Goes over the file once; `at` never leaves it."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._num_bytes = len(content)
        self._at = 0

    def facts(self) -> tuple[dict[str, int | str], set[str]]:
        num_tensors, found = self._begin(), {}
        for _ in range(self._count("pairs", _SMALLEST_PAIR)):
            key, value = self._text(), self._value(self._number("<I"), is_inner=False)
            if value is not None:
                found[_decoded(key)] = _decoded(value) if isinstance(value, bytes) else value
        names = set()
        for _ in range(num_tensors):
            names.add(_decoded(self._text()))
            if (num_dimensions := self._number("<I")) > _MAX_DIMENSIONS:
                raise _DamagedError(f"{num_dimensions} dimensions")
            self._take(num_dimensions * 8 + 4 + 8)
        return found, names

    def _begin(self) -> int:
        """Number of tensors."""
        if self._take(4) != _MAGIC:
            raise _DamagedError("it does not begin with GGUF")
        if (version := self._number("<I")) not in _VERSIONS:
            raise _DamagedError(f"version {version}, not one of {', '.join(map(str, _VERSIONS))}")
        return self._count("tensors", _SMALLEST_TENSOR)

    def whole(self, block_sizes: Callable[[int], tuple[int, int]]) -> None:
        num_tensors = self._begin()
        alignment, keys = _DEFAULT_ALIGNMENT, set()
        for _ in range(self._count("pairs", _SMALLEST_PAIR)):
            key, kind = self._text(), self._number("<I")
            if key in keys:
                raise _DamagedError(f"two values for {key[:60]!r}")
            keys.add(key)
            if key == b"general.alignment" and kind == _UINT32:
                alignment = self._number("<I")
            else:
                self._value(kind, is_inner=False)
        if not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise _DamagedError(f"an alignment of {alignment}")
        ends = [self._tensor(block_sizes) for _ in range(num_tensors)]
        data = math.ceil(self._at / alignment) * alignment
        if ends and data + max(ends) > self._num_bytes:
            raise _DamagedError("its tensors end behind its end")

    def _tensor(self, block_sizes: Callable[[int], tuple[int, int]]) -> int:
        """Where the tensor ends, counted from the beginning of the data."""
        name, num_dimensions = self._text(), self._number("<I")
        if num_dimensions > _MAX_DIMENSIONS:
            raise _DamagedError(f"{num_dimensions} dimensions of {name[:60]!r}")
        shape = [self._number("<Q") for _ in range(num_dimensions)]
        per_block, block_bytes = block_sizes(self._number("<I"))
        num_numbers = math.prod(shape)
        if num_numbers == 0 or shape[:1] == [] or shape[0] % per_block:
            raise _DamagedError(f"a shape of {name[:60]!r} that its type does not have")
        return self._number("<Q") + num_numbers // per_block * block_bytes

    def _value(self, kind: int, *, is_inner: bool) -> int | bytes | None:
        """A whole number, a text, the length of an array; None for other numbers."""
        if kind in _WHOLE_NUMBERS:
            return self._number(_WHOLE_NUMBERS[kind])
        if kind in _SIZES:
            self._take(_SIZES[kind])
            return None
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY or is_inner:
            raise _DamagedError(f"a value of type {kind}")
        inner = self._number("<I")
        num_values = self._count("values", _SIZES.get(inner, 8))
        if inner in _SIZES:
            self._take(num_values * _SIZES[inner])
            return num_values
        for _ in range(num_values):
            self._value(inner, is_inner=True)
        return num_values

    def _count(self, of: str, smallest_bytes: int) -> int:
        number = self._number("<Q")
        if number > (self._num_bytes - self._at) // smallest_bytes:
            raise _DamagedError(f"{number} {of} in a file of {self._num_bytes} bytes")
        return number

    def _text(self) -> bytes:
        return self._take(self._number("<Q"))

    def _number(self, form: str) -> int:
        number: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return number

    def _take(self, num_bytes: int) -> bytes:
        if num_bytes > self._num_bytes - self._at:
            raise _DamagedError("it ends in the middle of its header")
        self._at += num_bytes
        return self._content[self._at - num_bytes : self._at]


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace")
