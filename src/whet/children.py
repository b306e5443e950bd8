"""The end of a process that this one started."""

from __future__ import annotations

import subprocess
from typing import Any

_SECONDS_TO_END = 10.0


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
