"""Processes beside this one: when they began, and the end of those that this one started."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

_SECONDS_TO_END = 10.0


def start_of(process: int) -> str:
    """When it began, in ticks since the machine started; empty when it is gone or the kernel does not tell."""
    try:
        # the name in parentheses may hold anything; the state is the 3rd field and the start the 22nd
        rest = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    is_dead = rest[0] in (b"Z", b"X")  # its parent has not asked after it yet
    return "" if is_dead else rest[19].decode()


def end(process: subprocess.Popen[Any]) -> None:
    """Ask it to end, and do not wait for ever for what it is still doing."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
