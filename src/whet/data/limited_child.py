"""A child process for work that must not be trusted with time or memory: it gets JSON lines and gives JSON lines.

Started at the first request, ended with its parent, at every irregularity, and when an answer takes too long: then the
next request starts a new one. The child limits its own memory and files; this side limits wall time and room.
"""

from __future__ import annotations

import atexit
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from whet.errors import WhetError

_START_SECONDS = 60.0


class LimitedChild:
    """One child process per object. It says `ready` when it has started."""

    def __init__(self, command: Callable[[], Sequence[str]], purpose: str) -> None:
        """`command`: program and arguments, asked for when it is needed; `purpose` ends `the process that`, for
        messages."""
        self._command, self._purpose = command, purpose
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self.end)
        os.register_at_fork(after_in_child=self._forget)

    @property
    def id(self) -> int | None:
        """Process id, where there is a child."""
        return None if self._process is None else self._process.pid

    def ask(self, request: bytes, num_answers: int, max_seconds: float, max_bytes: int) -> list[bytes]:
        """The lines that the child answers with: fewer than `num_answers` when time, room or its life ran out."""
        with self._lock:
            process = self._start()
            lines: list[bytes] = []
            try:
                lines = exchange(process, request, num_answers, max_seconds, max_bytes)
            finally:
                if len(lines) < num_answers:
                    self._end()
            return lines

    def end(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            self._end()

    def _forget(self) -> None:
        """In a forked copy of this process: the child is the original's, a new one will be started."""
        self._lock = threading.Lock()
        if self._process is not None:
            self._close_pipes(self._process)
            self._process.returncode = 0  # nothing to wait for here
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        command = list(self._command())
        self._process = subprocess.Popen(  # noqa: S603 - this Python and a file of ours
            command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            env={key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ},
            start_new_session=True,  # an interrupt at the terminal is the parent's business
        )  # fmt: skip
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        if exchange(self._process, b"", 1, _START_SECONDS, 100) != [b"ready"]:
            status = self._process.poll()
            self._end()
            raise WhetError(
                f"the process that {self._purpose} did not start ({_describe_end(status)})",
                mend=f"run `{' '.join(command)}` and see what it says",
            )
        return self._process

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._close_pipes(self._process)
        self._process = None

    @staticmethod
    def _close_pipes(process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def exchange(
    process: subprocess.Popen[bytes], request: bytes, num_lines: int, max_seconds: float, max_bytes: int
) -> list[bytes]:
    """Write the request and read that many lines; fewer when the child is silent for too long, talks too much or ends.

    Reading and writing take turns, so that neither side can wait for the other for ever.
    """
    assert process.stdin is not None and process.stdout is not None
    unsent, received, num_received = memoryview(request), bytearray(), 0
    deadline = time.monotonic() + max_seconds
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if unsent:
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while num_received < num_lines and len(received) <= max_bytes:
            remaining = deadline - time.monotonic()
            ready = selector.select(max(0.0, remaining))
            if not ready or remaining < 0:
                break
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    try:
                        unsent = unsent[os.write(key.fd, unsent) :]
                    except BrokenPipeError:
                        unsent = unsent[:0]  # its end is noticed at the other pipe
                    if not unsent:
                        selector.unregister(process.stdin)
                    continue
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    return bytes(received).split(b"\n")[:-1]
                received += chunk
                num_received += chunk.count(b"\n")
    return bytes(received).split(b"\n")[:-1]


def _describe_end(status: int | None) -> str:
    if status is None:
        return "no answer"
    if status >= 0:
        return f"exit code {status}"
    return f"signal {signal.Signals(-status).name}"
