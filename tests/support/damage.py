"""What disks, copies and people do to a file: each function damages one in place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_second_half(path: Path) -> None:
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2] + bytes(size - size // 2))


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def add_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0\0\0\0")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "second half zeroed": zero_second_half,
    "one bit flipped": flip_bit,
    "missing": lose,
    "empty": empty,
    "bytes added": add_bytes,
}
