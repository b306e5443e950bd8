"""Chat templates are programs that came with a model: they run in a child process that is limited and can be ended.

One child per process, started at the first conversation, ended with its parent. It gets JSON and gives JSON.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from whet.errors import RecipeError, WhetError

_CHILD = Path(__file__).with_name("sandbox_child.py")
_START_SECONDS = 60.0
_SECONDS_PER_TEXT = 0.01
_CHARACTERS_PER_CHARACTER = 16
_FREE_CHARACTERS = 100_000
_MEND = (
    "name another one in `data.chat_template` (llama-3, llama-3.1, nemotron-nano, smollm2), "
    "use `data.template: plain`, or get the model from a source that you trust"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """The text of a chat template with what it may read besides the conversation."""

    name: str
    """for messages: `the chat template llama-3`"""
    text: str
    variables: dict[str, str]
    """special tokens and the date"""
    max_seconds: float
    """wall time for a request, besides 10 ms per text"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One conversation to render, at several cuts."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    cuts: tuple[tuple[int, bool], ...]
    """per text: number of messages, and whether the text is to end where the answer begins"""
    num_characters: int
    """of the conversation: a text may have 16 times as many and 100,000 more"""
    origin: str


class _Child:
    """The child process and what it answers; ends it at every irregularity, so that the next request starts anew."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, request: bytes, num_answers: int, max_seconds: float, max_bytes: int) -> list[bytes]:
        """The lines that the child answers with: fewer than `num_answers` when time, room or its life ran out."""
        with self._lock:
            process = self._start()
            lines: list[bytes] = []
            try:
                lines = _exchange(process, request, num_answers, max_seconds, max_bytes)
            finally:
                if len(lines) < num_answers:
                    self._end()
            return lines

    def end(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            self._end()

    def forget(self) -> None:
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
        folders = {str(Path(module.__file__ or "").parents[1]) for module in (jinja2, markupsafe)}
        self._process = subprocess.Popen(  # noqa: S603 - this Python and a file of ours
            [sys.executable, "-I", "-S", "-B", str(_CHILD), *sorted(folders)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            env={key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ},
            start_new_session=True,  # an interrupt at the terminal is the parent's business
        )  # fmt: skip
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        if _exchange(self._process, b"", 1, _START_SECONDS, 100) != [b"ready"]:
            status = self._process.poll()
            self._end()
            raise WhetError(
                f"the process that renders chat templates did not start ({_describe_end(status)})",
                mend=f"run `{sys.executable} -I -S {_CHILD} {' '.join(sorted(folders))}` and see what it says",
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


_CHILD_PROCESS = _Child()
atexit.register(_CHILD_PROCESS.end)
os.register_at_fork(after_in_child=_CHILD_PROCESS.forget)


def _exchange(
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


def render_jobs(template: ChatTemplate, jobs: Sequence[Job]) -> list[list[str] | str]:
    """Per conversation its texts, or a sentence why the template refuses it.

    Raises RecipeError that names the template when it needs more time, room or rights than a chat template has.
    """
    num_texts = sum(len(job.cuts) for job in jobs)
    seconds = template.max_seconds + _SECONDS_PER_TEXT * num_texts
    conversations = [_conversation(job) for job in jobs]
    request = {
        "template": template.text,
        "variables": template.variables,
        "seconds": seconds,
        "conversations": conversations,
    }
    # JSON in ASCII takes up to 12 bytes for a character
    max_bytes = sum(
        12 * each["max_characters"] * len(job.cuts) + 1000 for each, job in zip(conversations, jobs, strict=True)
    )
    started = time.monotonic()
    lines = _CHILD_PROCESS.ask(json.dumps(request).encode("ascii") + b"\n", len(jobs), seconds, max_bytes)
    answers: list[list[str] | str] = []
    for job, line in zip(jobs, lines, strict=False):
        reply = json.loads(line)
        if "fault" in reply:
            _CHILD_PROCESS.end()
            raise RecipeError(f"{template.name} cannot be used: {reply['fault']}", where=job.origin, mend=_MEND)
        answers.append(reply["texts"] if "texts" in reply else reply["refusal"])
    if len(answers) < len(jobs):
        is_late = time.monotonic() - started >= seconds
        why = f"did not finish within {seconds:.1f} s" if is_late else "ended the process that renders it"
        raise RecipeError(f"{template.name} {why}", where=jobs[len(answers)].origin, mend=_MEND)
    return answers


def _conversation(job: Job) -> dict[str, Any]:
    return {
        "messages": job.messages,
        "tools": job.tools,
        "cuts": job.cuts,
        "max_characters": _CHARACTERS_PER_CHARACTER * job.num_characters + _FREE_CHARACTERS,
    }


def _describe_end(status: int | None) -> str:
    if status is None:
        return "no answer"
    if status >= 0:
        return f"exit code {status}"
    return f"signal {signal.Signals(-status).name}"


def child_id() -> int | None:
    """Process id of the child, for tests."""
    process = _CHILD_PROCESS._process
    return None if process is None else process.pid
