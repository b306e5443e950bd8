"""What a parser may not do, watched from inside its process: run long, eat memory, start or reach for anything.

The audit hook of Python sees every file opened, process started, socket used and code executed, whoever does it.
"""

from __future__ import annotations

import resource
import signal
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

_FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen",
    "pty.spawn", "socket.connect", "socket.bind", "socket.getaddrinfo", "pickle.find_class", "ctypes.dlopen",
    "webbrowser.open", "shutil.rmtree", "os.chmod", "os.chown", "os.symlink",
)  # fmt: skip
_WRITES = 0o3 | 0o100
"""O_WRONLY, O_RDWR, O_CREAT of os.open"""


class TooSlowError(BaseException):
    """An input took longer than its limit; no parser may catch it."""


class Guard:
    """Notes what an input made the process do. `allowed`: what this target's own machinery does; `engine`: the folder
    of what makes the inputs."""

    def __init__(self, scratch: Path, *, allowed: tuple[str, ...] = (), engine: Path | None = None) -> None:
        engine_folder = str(engine or scratch)
        self._roots = (
            str(scratch),
            engine_folder,
            sys.prefix,
            sys.base_prefix,
            *_code_folders(),
            "/proc/",
            "/dev/null",
            "/sys/",
        )
        self._writable = (str(scratch), engine_folder, "/dev/null")
        self._forbidden = frozenset(_FORBIDDEN) - set(allowed)
        self.seen: list[str] = []
        """since it was last emptied"""

    def watch(self) -> None:
        """From here on, for the rest of the process: a hook cannot be taken off again."""
        sys.addaudithook(self._note)

    def _note(self, event: str, details: tuple[Any, ...]) -> None:
        if event == "os.chmod" and str(details[0]).startswith(self._writable):
            return  # a file that is written anew keeps its rights
        if event in self._forbidden:
            self.seen.append(f"{event} {str(details)[:200]}")
        elif event == "open":
            path, _, flags = details
            if isinstance(path, str | bytes):
                name = path if isinstance(path, str) else path.decode("utf-8", "replace")
                roots = self._writable if isinstance(flags, int) and flags & _WRITES else self._roots
                if name.startswith("/") and not name.startswith(roots):
                    self.seen.append(f"open {name[:200]}")
        elif event == "exec":
            name = getattr(details[0], "co_filename", None)
            is_made_up = isinstance(name, str) and name.startswith("<") and not name.startswith("<frozen")
            if is_made_up and not _is_importing():
                self.seen.append(f"exec {name[:100]}")


def _is_importing() -> bool:
    """Whether a module is being imported, or its annotations are read: Python executes text of its own then."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib") or name.endswith(("/typing.py", "/dataclasses.py")):
            return True
        frame = frame.f_back
    return False


def _code_folders() -> tuple[str, ...]:
    paths = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), *(path for path in sys.path if path))
    return tuple({str(Path(path).resolve()) for path in paths} | {str(path) for path in paths})


def limit_memory(gigabytes: float) -> None:
    """Address space of this process: more ends in a MemoryError."""
    amount = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (amount, amount))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """TooSlowError after so many seconds of processor time of this process, wherever it is in Python."""
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TooSlowError


def take_alarms() -> None:
    """Make `time_limit` work in this process (main thread)."""
    signal.signal(signal.SIGVTALRM, _too_slow)
