"""Files are written beside training by one thread, one job at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


class Background:
    """A thread that does one job at a time; an error of a job comes out where it is asked for, once."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._job: Future[None] | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Begin `job`; waits for the one before it and raises its error."""
        self.wait()
        self._job = self._thread.submit(job)

    def is_done(self, *, within_seconds: float = 0.0) -> bool:
        """Whether no job is at work, waiting so long for it at most; raises the error of the one that ended."""
        if self._job is not None and not wait([self._job], within_seconds).done:
            return False
        self.wait()
        return True

    def wait(self) -> None:
        """Return when no job is at work; raises the error of the one that ended."""
        if self._job is not None:
            wait([self._job])  # an interruption of waiting leaves the job to `close`
            job, self._job = self._job, None
            job.result()

    def close(self) -> BaseException | None:
        """Wait for the job at work and end the thread; returns the error of the job instead of raising it."""
        self._thread.shutdown(wait=True)
        job, self._job = self._job, None
        return job.exception() if job is not None else None
