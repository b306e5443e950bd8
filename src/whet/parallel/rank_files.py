"""What a rank leaves in `RUN/ranks`: its status file and, of several ranks, its log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from whet.parallel.rank_log import RankLog
from whet.parallel.status import StatusFile


class RankFiles:
    """Nothing is written before `begin`: until then an earlier run may be moved out of the folder."""

    def __init__(self, run_folder: Path, *, rank: int, world_size: int) -> None:
        self._run_folder, self._rank, self._world_size = run_folder, rank, world_size
        self.status = StatusFile(run_folder, rank=rank, world_size=world_size)
        self._log: RankLog | None = None

    def begin(self) -> None:
        """The rank runs in this folder from now on."""
        self.status.begin()
        if self._world_size > 1:
            self._log = RankLog(self._run_folder, rank=self._rank, world_size=self._world_size)

    def say(self, sentence: str) -> None:
        """A line in the log; one process alone has none: its console shows everything."""
        if self._log is not None:
            self._log.say(sentence)

    def end(self, error: BaseException | None) -> None:
        """How the rank ends."""
        if self._log is not None:
            self._log.close(error)
        self.status.end(error)


@contextmanager
def rank_files(run_folder: Path, *, rank: int, world_size: int) -> Iterator[RankFiles]:
    """The files of this rank; they say how what is inside ended."""
    files = RankFiles(run_folder, rank=rank, world_size=world_size)
    try:
        yield files
    except BaseException as error:
        files.end(error)
        raise
    files.end(None)


def begin(files: RankFiles | None) -> None:
    """`files.begin()`, where there are any."""
    if files is not None:
        files.begin()


def voice(say: Callable[[str], None] | None, files: RankFiles | None) -> Callable[[str], None]:
    """What is said to people (by `say`, which rank 0 alone has) goes into this rank's log too."""

    def both(sentence: str) -> None:
        if say is not None:
            say(sentence)
        if files is not None:
            files.say(sentence)

    return both
