"""How long to wait for a hub that is silent: half a minute in all, and as long as it likes while bytes arrive.

huggingface_hub waits long and often by itself: six attempts of up to a minute each for the facts of a file, six of ten
seconds for its bytes, and for as long as a hub asks it to that answers "too many requests". Its threads cannot be
stopped, only left; they are daemons, so the process can end without them.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from whet.hub.errors import failures

_T = TypeVar("_T")
_POLL_SECONDS = 0.1
_UNFINISHED = ".incomplete"
_STATUS = re.compile(r"HTTP Error (\d{3})")
_FAILURE = "thrown while"
"""in what is said of an attempt that failed, by a status or by an error; how long it waits then is another line"""


class SilentHubError(TimeoutError):
    """No byte arrived for too long. `status`: what the hub answered meanwhile to each attempt, where it answered."""

    def __init__(self, status: int | None) -> None:
        super().__init__("silent hub")
        self.status = status


def in_background(call: Callable[[], _T]) -> Future[_T]:
    """`call`, begun in a thread that does not hold up the end of the process."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except failures() as error:
            future.set_exception(error)
        finally:
            future.cancel()  # without effect on what has ended

    threading.Thread(target=run, name="hub", daemon=True).start()
    return future


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """Result of `call`, or TimeoutError after `seconds`: a socket's own timeout starts anew with every byte."""
    return in_background(call).result(timeout=seconds)


def all_in_parallel(
    calls: Sequence[Callable[[], _T]], *, num_parallel: int, folder: Path, silence_seconds: float
) -> list[_T]:
    """Results of `calls`, which write into `folder`, huggingface_hub's folder of blobs.

    The first error is raised and nothing further begun. SilentHubError when nothing in `folder` changes for
    `silence_seconds`, unless a file is being received of which huggingface_hub complains nothing: it hands a file on
    in pieces of 10 MB, which take their time on a slow line.
    """
    turns, is_over = threading.Semaphore(num_parallel), threading.Event()

    def in_turn(call: Callable[[], _T]) -> Callable[[], _T | None]:
        def run() -> _T | None:
            with turns:
                if is_over.is_set():
                    return None
                try:
                    return call()
                except BaseException:
                    is_over.set()  # before another takes the turn
                    raise
                finally:
                    complaints.of_calls.pop(threading.get_ident(), None)

        return run

    try:
        with _complaints() as complaints:  # before anything begins, so that none is missed
            futures = [in_background(in_turn(call)) for call in calls]
            _wait(futures, folder, silence_seconds, complaints)
        ended = [future for future in futures if future.done()]
        # of several the failed one: one that has not ended would be waited for
        return [future.result() for future in (futures if len(ended) == len(futures) else ended)]  # type: ignore[misc]
    finally:
        is_over.set()


def _wait(futures: Sequence[Future[_T]], folder: Path, silence_seconds: float, complaints: _Complaints) -> None:
    """Return when all have ended or one has failed."""
    sizes, changed, num_before = _sizes(folder), time.monotonic(), 0
    while wait(futures, _POLL_SECONDS, return_when=FIRST_EXCEPTION).not_done:
        if any(future.done() and future.exception() for future in futures):
            return
        if (now := _sizes(folder)) != sizes:
            sizes, changed = now, time.monotonic()
            del complaints.recent[:num_before]  # what was said since the last look may be about what came after it
        elif time.monotonic() - changed > silence_seconds:
            is_receiving = any(name.endswith(_UNFINISHED) for name in sizes)
            if complaints.recent or not is_receiving:
                # also from before the change, which may have been another file's: who is asked to wait is told so once
                said = list(complaints.of_calls.values())
                codes = [found[1] for complaint in said if (found := _STATUS.search(complaint))]
                raise SilentHubError(int(codes[-1]) if codes else None)
        num_before = len(complaints.recent)


def _sizes(folder: Path) -> dict[str, int]:
    sizes = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            sizes[path.name] = path.lstat().st_size
        except FileNotFoundError:
            continue  # renamed meanwhile: whole now
    return sizes


@dataclass(slots=True)
class _Complaints:
    recent: list[str] = field(default_factory=list)
    """since something was received"""
    of_calls: dict[int, str] = field(default_factory=dict)
    """thread -> its last failed attempt, of calls that have not ended"""


@contextmanager
def _complaints() -> Iterator[_Complaints]:
    """What huggingface_hub warns of meanwhile: each failed attempt, before it tries again."""
    heard = _Complaints()
    ear = _Ear(heard)
    logger = logging.getLogger("huggingface_hub")
    level, shown = logger.level, logger.getEffectiveLevel()
    hushed = [(handler, handler.level) for handler in logger.handlers]
    if shown > logging.WARNING:
        # said so that it is heard here, and shown no more than before
        logger.setLevel(logging.WARNING)
        for handler, own in hushed:
            handler.setLevel(max(own, shown))
    logger.addHandler(ear)
    try:
        yield heard
    finally:
        logger.removeHandler(ear)
        logger.setLevel(level)
        for handler, own in hushed:
            handler.setLevel(own)


class _Ear(logging.Handler):
    """Keeps what is said as a warning or worse."""

    def __init__(self, heard: _Complaints) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        self._heard.recent.append(said)
        if record.thread is not None and _FAILURE in said:
            self._heard.of_calls[record.thread] = said
