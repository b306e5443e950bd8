"""`whet launch local`: torchrun as a child; the ranks' words are passed on, signals down, their exit code up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from whet.launch.outcome import Outcome, of_this_launch, outcome_of
from whet.launch.torchrun import RANK_PREFIX, Machines, torchrun_command, torchrun_environment
from whet.parallel.status import read_statuses

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Ctrl-C; what schedulers send before they kill; what Slurm is asked to send ahead of the time limit; a terminal that
is closed"""
_KEPT_LINES = 200

Say = Callable[[str], None]


@dataclass(slots=True)
class Child:
    """torchrun while it runs, and who asked it to stop."""

    process: subprocess.Popen[str] | None = None
    asked: list[str] = field(default_factory=list)

    def ask_to_stop(self, number: int, _frame: FrameType | None) -> None:
        """SIGTERM to torchrun, once: a second one would make it leave its ranks behind."""
        self.asked.append(signal.Signals(number).name)
        if len(self.asked) == 1 and self.process is not None:
            self.process.terminate()


def launch_local(
    program: Sequence[str], machines: Machines, *, run_folder: Path, num_ranks: int, num_threads: int,
    max_restarts: int, say: Say, variables: Mapping[str, str] | None = None,
) -> Outcome:  # fmt: skip
    """Run `program` (what follows `python`) in `num_ranks` processes of this machine until all have ended."""
    before = read_statuses(run_folder)
    # in the run folder it would look like an earlier run, and `--fresh` would move it away while it is written
    with tempfile.TemporaryDirectory(prefix="whet-ranks-") as log_folder:
        command = torchrun_command(
            program, machines, num_ranks=num_ranks, max_restarts=max_restarts, log_folder=log_folder
        )
        environment = torchrun_environment(os.environ if variables is None else variables, num_threads=num_threads)
        code, own_lines, was_asked = run_child(command, environment)
    outcome = outcome_of(code, of_this_launch(before, read_statuses(run_folder)), was_asked_to_stop=was_asked)
    if not outcome.is_known:
        for line in own_lines:
            say(line)
    return outcome


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, list[str], bool]:
    """(exit code, torchrun's own last lines, whether it was asked to stop). What ranks say goes to our own output."""
    own: deque[str] = deque(maxlen=_KEPT_LINES)
    child = Child()
    with _passing_on(child):
        # its own session: a Ctrl-C of the terminal reaches it once, through us
        child.process = subprocess.Popen(  # noqa: S603 (a list, read by no shell)
            command, env=dict(environment), stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
        )
        with child.process as process:
            if child.asked:
                process.terminate()
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith(RANK_PREFIX):
                    _pass_on(line)
                else:
                    own.append(line.rstrip("\n"))
            code = process.wait()
    return code, list(own), bool(child.asked)


@contextmanager
def _passing_on(child: Child) -> Iterator[None]:
    # what is ignored on purpose (nohup) stays so
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, child.ask_to_stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(line: str) -> None:
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except OSError:
        # nobody reads any more; training goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
