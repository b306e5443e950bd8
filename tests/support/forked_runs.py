"""Runs of whet at the price of a fork: a process that has imported everything starts each of them as a child.

`python forked_runs.py` is that process. A child goes through `whet.cli.main.main` to its exit code as `python -m whet`
does, in a process of its own, with environment and folder of its own. What it spares is the start of the interpreter
and the imports, which take most of the time of a tiny run; so what happens during those is not covered, and tests that
use this keep a few tries through the real command line.

A child can be killed by the kernel when it has used so many seconds of processor time: moments are then spread over
the work of the run alike on a busy machine and on an idle one. Or it runs under strace, which injects a signal or an
error into the N-th call of some kind.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND_LINE = "whet.cli.main:main"
CLOCK_PROCESS_CPUTIME_ID = 2
STRACE_READY = "attached"
KNOWS_FORKS = "jemalloc_bg_thd"
"""a thread of pyarrow's allocator, which makes itself a new one in a child"""


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


class _Sigevent(ctypes.Structure):
    _fields_ = (
        ("sigev_value", ctypes.c_void_p),
        ("sigev_signo", ctypes.c_int),
        ("sigev_notify", ctypes.c_int),
        ("rest", ctypes.c_char * 48),
    )


def signal_after(seconds: float, number: int) -> None:
    """That signal from the kernel when this process has used so much processor time."""
    libc = ctypes.CDLL(None, use_errno=True)
    event, timer = _Sigevent(sigev_signo=number), ctypes.c_void_p()
    value = _Itimerspec(it_value=_Timespec(int(seconds), int(seconds % 1 * 1e9)))
    if libc.timer_create(CLOCK_PROCESS_CPUTIME_ID, ctypes.byref(event), ctypes.byref(timer)) or libc.timer_settime(
        timer, 0, ctypes.byref(value), None
    ):
        raise OSError(ctypes.get_errno(), "no timer of processor time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child ended."""

    code: int
    """negative: the signal that killed it"""
    said: str
    cpu_seconds: float
    """of the child itself; its own children not counted"""


class ForkedRuns:
    """The process that forks, seen from a test; a context that ends it."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        """`folder` takes what children say."""
        self._said = folder / "said.txt"
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=dict(environment), cwd=folder, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(
        self, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None,
        program: str = COMMAND_LINE, die_after: float | None = None, die_of: int = signal.SIGKILL,
        strace: Sequence[str] = (), waits_itself: bool = False, limits: Mapping[str, int] | None = None,
        learn: bool = False,
    ) -> Ended:  # fmt: skip
        """One child to its end. `program` is `module:function`, called with `arguments` in sys.argv.

        `die_after`: seconds of processor time, then the signal `die_of`. `strace`: its options, from the beginning of
        the program, or from where that stops itself (SIGSTOP) if it `waits_itself`. `limits`: of setrlimit, by name.
        `learn`: the process imports whatever this child had imported when it ended, so that later children have it.
        """
        request = {
            "program": program,
            "arguments": arguments,
            "folder": str(folder),
            "environment": dict(environment or {}),
            "die_after": die_after,
            "die_of": int(die_of),
            "strace": list(strace),
            "waits_itself": waits_itself,
            "limits": dict(limits or {}),
            "learn": learn,
            "said": str(self._said),
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        answer = self._process.stdout.readline()
        assert answer, "the process that forks has ended"
        said = self._said.read_text(encoding="utf-8", errors="replace")
        return Ended(said=said, **json.loads(answer))

    def __enter__(self) -> ForkedRuns:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:  # a test gave up while a child was at work
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def serve() -> None:
    """Answer requests until there are no more."""
    for line in sys.stdin:
        request = json.loads(line)
        names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
        threads = [name for name in names if name != KNOWS_FORKS]
        assert len(threads) == 1, f"a child would lack threads of this process: {threads}"
        answer = json.dumps(_fork(request))
        if request["learn"]:
            _import_all(Path(request["said"] + ".modules"))
        print(answer, flush=True)  # noqa: T201


def _fork(request: Mapping[str, Any]) -> dict[str, Any]:
    importlib.import_module(request["program"].partition(":")[0])
    child = os.fork()
    if child == 0:
        _become(request)
    tracer = _trace(child, request["strace"]) if request["strace"] else None
    _, status, used = os.wait4(child, 0)
    if tracer is not None:
        tracer.communicate()
    return {"code": os.waitstatus_to_exitcode(status), "cpu_seconds": used.ru_utime + used.ru_stime}


def _trace(child: int, options: Sequence[str]) -> subprocess.Popen[str] | None:
    """strace, attached to `child`, which waited for it and goes on; None when it ended before it waited."""
    seen = os.waitid(os.P_PID, child, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    if seen is None or seen.si_code != os.CLD_STOPPED:
        return None
    tracer = subprocess.Popen(["strace", "-f", *options, "-p", str(child)], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    first = tracer.stderr.readline()
    assert STRACE_READY in first, first
    os.kill(child, signal.SIGCONT)
    return tracer


def _become(request: Mapping[str, Any]) -> None:
    """The child: the program that was asked for, to its exit code. Does not return."""
    code = 1
    try:
        _set_the_stage(request)
        if request["strace"] and not request["waits_itself"]:
            os.kill(os.getpid(), signal.SIGSTOP)
        if request["die_after"] is not None:
            signal_after(request["die_after"], request["die_of"])
        module, _, function = request["program"].partition(":")
        try:
            getattr(importlib.import_module(module), function)()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if request["learn"]:
            Path(request["said"] + ".modules").write_text("\n".join(sorted(sys.modules)), encoding="utf-8")
    finally:
        error = sys.exc_info()[1]
        if error is not None:
            sys.excepthook(type(error), error, error.__traceback__)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _set_the_stage(request: Mapping[str, Any]) -> None:
    said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, source in ((0, nothing), (1, said), (2, said)):
        os.dup2(source, number)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    sys.argv = ["whet", *request["arguments"]]
    for name, value in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))


def _import_all(names: Path) -> None:
    learnt = names.read_text(encoding="utf-8").split() if names.is_file() else []  # the child may have been killed
    for name in learnt:
        # some are made at run time and cannot be imported
        with suppress(ImportError, AttributeError):
            importlib.import_module(name)


def count_calls(log: str) -> dict[str, int]:
    """How often each call occurs in what strace wrote (`-o`) about a process of one thread."""
    counts: dict[str, int] = {}
    for line in log.splitlines():
        if match := re.match(r"(?:\d+ +)?(\w+)\(", line):
            counts[match[1]] = counts.get(match[1], 0) + 1
    return counts


if __name__ == "__main__":
    importlib.import_module(COMMAND_LINE.partition(":")[0])
    serve()
