"""What one of several ranks says and warns of, in `RUN/ranks/rank-N.log`: the console shows rank 0, or all mixed up."""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from whet.parallel.status import FOLDER


def log_path(run_folder: Path, rank: int) -> Path:
    return run_folder / FOLDER / f"rank-{rank}.log"


@contextmanager
def rank_logged(run_folder: Path, *, rank: int, world_size: int) -> Iterator[Callable[[str], None]]:
    """What writes a sentence into this rank's log. Inside, standard error and fatal signals go there too.

    One process alone has no log: its console shows everything.
    """
    if world_size == 1:
        yield lambda _: None
        return
    path = log_path(run_folder, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as log:
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        log.write(f"{when} rank {rank} of {world_size}, host {socket.gethostname()}, process {os.getpid()}\n")
        console, sys.stderr = sys.stderr, _Both(sys.stderr, log)
        had_faulthandler = faulthandler.is_enabled()
        if not had_faulthandler:
            faulthandler.enable(log)
        try:
            yield lambda sentence: _write(log, f"{time.strftime('%H:%M:%S')} {sentence}\n")
        except BaseException as error:
            _write(log, f"{time.strftime('%H:%M:%S')} {type(error).__name__}: {error}\n")
            raise
        finally:
            sys.stderr = console
            if not had_faulthandler:
                faulthandler.disable()


class _Both:
    """Standard error whose text also goes into a log; everything else is the console's."""

    def __init__(self, console: TextIO, log: TextIO) -> None:
        self._console, self._log = console, log

    def write(self, text: str) -> int:
        _write(self._log, text)
        return self._console.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._console, name)


def _write(log: TextIO, text: str) -> None:
    """A full disk must not stop a run here: it does so where it matters, at a checkpoint."""
    try:
        log.write(text)
    except (OSError, ValueError):
        return
