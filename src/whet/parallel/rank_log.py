"""What one of several ranks says and warns of, in `RUN/ranks/rank-N.log`: the console shows rank 0, or all mixed up."""

from __future__ import annotations

import faulthandler
import io
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from whet.atomic import open_to_append
from whet.errors import StorageError
from whet.parallel.status import FOLDER
from whet.redact import without_secrets


def log_path(run_folder: Path, rank: int) -> Path:
    return run_folder / FOLDER / f"rank-{rank}.log"


class RankLog:
    """From here to `close`, standard error and fatal signals of this process go into the file too."""

    def __init__(self, run_folder: Path, *, rank: int, world_size: int) -> None:
        path = log_path(run_folder, rank)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open_to_append(path)
            self._file = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        except OSError as error:
            raise StorageError(
                f"the log of this rank cannot be written ({error.strerror or error})",
                where=str(path),
                mend="choose another `output`",
            ) from error
        when = time.strftime("%Y-%m-%d")
        self.say(f"{when}: rank {rank} of {world_size}, host {socket.gethostname()}, process {os.getpid()}")
        self._console = sys.stderr
        sys.stderr = _Both(self._console, self._file)
        self._takes_signals = not faulthandler.is_enabled()
        if self._takes_signals:
            faulthandler.enable(self._file)

    def say(self, sentence: str) -> None:
        """A line with the time of day."""
        _write(self._file, f"{time.strftime('%H:%M:%S')} {without_secrets(sentence)}\n")

    def close(self, error: BaseException | None) -> None:
        """`error`: what the rank ends with."""
        self.say("finished" if error is None else f"{type(error).__name__}: {error}")
        sys.stderr = self._console
        if self._takes_signals:
            faulthandler.disable()
        self._file.close()


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
