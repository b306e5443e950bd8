"""A thread beside training that notices a lost rank, tells why on every rank, and sees to it that none hangs on.

Training waits for other ranks inside libraries, for as long as their timeouts say, and they do not know whom they wait
for. So each rank says where it is, at least once a second, over a connection of its own (posts.py), and rank 0 judges
(roll.py). After the verdict the thread that works has a few seconds to end by itself, with its checkpoint and its
message; then the watch ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

from whet.atomic import open_to_append
from whet.errors import InterruptedRunError, OutOfMemoryError, PeerLostError, PeerOutOfMemoryError, WhetError
from whet.parallel import flight_recorder
from whet.parallel.posts import COMPLAINT_SECONDS, Post
from whet.parallel.presence import Presence
from whet.parallel.rank_log import log_path
from whet.parallel.roll import ENDED
from whet.parallel.status import mark_lost

_TURN_SECONDS = 0.2
_LONGEST_BEAT_SECONDS = 1.0
_LONGEST_TURN_SECONDS = 1.0
"""what counts of a turn: a rank that was asleep itself does not take the others' words for late"""
_GRACE_SECONDS = 5.0
"""for the thread that works to notice, after the verdict"""
_LEAVING_SECONDS = 25.0
"""more, once it has noticed: it may be writing a checkpoint"""
SHORT = "no memory left: "
"""how the farewell of a rank begins that ran out of memory"""
ENDED_SHORT = ENDED + SHORT
AGAIN = "give the same command again: the run continues from its last checkpoint"


class Watch:
    """Runs until `close`."""

    def __init__(
        self, post: Post, presence: Presence, *, rank: int, num_ranks: int, folder: Path | None
    ) -> None:  # fmt: skip
        """`folder`: the run folder, where stacks and the status of this rank are written."""
        self.presence = presence
        self.verdict: str | None = None
        self._post, self._rank, self._folder = post, rank, folder
        # rank 0 hears everyone: many speak less often
        self._beat_seconds = min(_LONGEST_BEAT_SECONDS, max(_TURN_SECONDS, num_ranks / 64))
        self._complaint = ""
        self._farewell: tuple[str, bool] | None = None
        self._deadline = 0.0
        self._wake, self._decided = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def complain(self, what: str) -> str | None:
        """This rank cannot finish `what`: the verdict, which takes some seconds; None when none can be reached."""
        self._complaint = what
        self._wake.set()
        self._decided.wait(2 * COMPLAINT_SECONDS)
        return self.notice()

    def notice(self) -> str | None:
        """The verdict, if there is one; whoever asks ends by itself and may take a while over it."""
        if self.verdict is not None:
            self._deadline = time.monotonic() + _LEAVING_SECONDS
        return self.verdict

    def host_of(self, rank: int) -> str:
        """The machine of `rank`; empty where it is not known."""
        return self._post.host_of(rank)

    def close(self, why: str, *, is_fault: bool) -> None:
        """Say farewell to the others and end the thread; `is_fault`: they cannot go on without this rank."""
        self._farewell = (why, is_fault)
        self._wake.set()
        self._thread.join(timeout=2 * _LONGEST_BEAT_SECONDS)

    def _run(self) -> None:
        last = next_beat = time.monotonic()
        while self._farewell is None:
            self._wake.wait(_TURN_SECONDS)
            self._wake.clear()
            now = time.monotonic()
            seconds, last = min(now - last, _LONGEST_TURN_SECONDS), now
            is_beat = now >= next_beat
            next_beat = now + self._beat_seconds if is_beat else next_beat
            verdict = self._post.turn(
                self.presence.note(), seconds=seconds, is_beat=is_beat, complaint=self._complaint
            )  # fmt: skip
            if verdict is not None and self.verdict is None:
                self._decide(verdict)
            if self.verdict is not None and time.monotonic() > self._deadline:
                self._end_process(self.verdict)
        why, is_fault = self._farewell
        self._post.leave(why, is_fault=is_fault)

    def _decide(self, verdict: str) -> None:
        self._deadline = time.monotonic() + _GRACE_SECONDS
        self.verdict = verdict
        if self._folder is not None:
            try:
                path = log_path(self._folder, self._rank)
                path.parent.mkdir(exist_ok=True)
                with open_to_append(path) as log:
                    log.write(f"{verdict}\nwhere every thread of this rank is:\n".encode())
                    log.flush()
                    faulthandler.dump_traceback(log)
            except OSError as error:
                sys.stderr.write(f"stacks could not be written: {error}\n")
            flight_recorder.write(self._folder, self._rank)
        self._decided.set()

    def _end_process(self, verdict: str) -> None:
        error = lost(self._rank, verdict)
        os.write(2, f"error: {error}\n".encode(errors="backslashreplace"))
        if self._folder is not None:
            mark_lost(self._folder, self._rank, error)
        os._exit(error.exit_code)


def lost(rank: int, why: str) -> PeerLostError:
    """The error that `rank` ends with."""
    if ENDED_SHORT in why:
        return PeerOutOfMemoryError(why, where=f"rank {rank}", mend="see what that rank says would help most")
    return PeerLostError(why, where=f"rank {rank}", mend=AGAIN)


_current: Watch | None = None


def current() -> Watch | None:
    """The watch of this process; None for one process alone."""
    return _current


def begin(post: Post, *, rank: int, num_ranks: int, folder: Path | None) -> None:
    """The watch of this process from now on."""
    global _current
    _current = Watch(post, Presence(), rank=rank, num_ranks=num_ranks, folder=folder)


def end(error: BaseException | None) -> None:
    """Leave the watch, with what this rank ends with."""
    global _current
    if _current is not None:
        why, is_fault = _farewell(error)
        _current.close(why, is_fault=is_fault)
    _current = None


def _farewell(error: BaseException | None) -> tuple[str, bool]:
    if error is None:
        return "finished", False
    if isinstance(error, PeerLostError):
        return "it lost another rank", False
    if isinstance(error, (InterruptedRunError, KeyboardInterrupt)):
        return "it was stopped as asked", False
    if isinstance(error, OutOfMemoryError):
        return SHORT + error.what.splitlines()[0], True
    text = error.what if isinstance(error, WhetError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0] if text else type(error).__name__, True


def host_of(rank: int) -> str:
    """The machine of `rank`; empty where it is not known."""
    return _current.host_of(rank) if _current is not None else ""
