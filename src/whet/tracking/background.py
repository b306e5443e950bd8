"""A tracker that cannot hold the run up: its calls wait in a bounded queue, a thread of its own makes them.

training   log_step ... log_step ... log_step ... close: waits 8 s at most
             | queue, 10,000 calls at most
thread     start ... log_step ... log_step ... close

Other trackers talk to disks and servers that may be dead, hang or be full. Nothing here waits for them while the run
trains; a tracker that raises, or lets the queue fill up, is lost, and that is told once, to the caller of the next
call. metrics.jsonl has every line anyway.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType

from whet.tracking.protocol import TrackedRun, Tracker
from whet.types import StepRecord

MAX_WAITING = 10_000
"""calls in the queue, some ten megabytes: an outage of hours at a step per second"""
START_SECONDS = 20.0
FLUSH_SECONDS = 8.0
"""a run that was asked to stop has 10 s in all on many clusters"""

_Call = Callable[[Tracker], None]


class TrackerLostError(OSError):
    """The tracker behind the queue failed, fell behind or did not end."""


class BackgroundTracker:
    """Itself a Tracker. Every method may raise TrackerLostError, once in all; afterwards it must not be called again.

    The one thing that is waited for is the start, because what a tracker imports there would take processor time
    from the first steps: `start_seconds` at most.
    """

    def __init__(
        self,
        tracker: Tracker,
        *,
        max_waiting: int = MAX_WAITING,
        start_seconds: float = START_SECONDS,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self._tracker = tracker
        self._start_seconds, self._flush_seconds = start_seconds, flush_seconds
        self._calls: deque[_Call] = deque()
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._is_closing = False
        self._end = _End()
        self._is_started = threading.Event()
        # a daemon: what hangs is left behind when the process ends
        self._thread = threading.Thread(target=self._deliver, name="tracker", daemon=True)

    def start(self, run: TrackedRun) -> None:
        """Start the tracker; returns when it has started or after `start_seconds`, and then it goes on trying."""
        self._hand_over(lambda tracker: tracker.start(run))
        self._thread.start()
        self._is_started.wait(self._start_seconds)
        self._raise_what_it_raised()

    def log_step(self, record: StepRecord) -> None:
        """Leave one step in the queue; takes microseconds."""
        self._hand_over(lambda tracker: tracker.log_step(record))

    def log_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        """Leave one evaluation in the queue; takes microseconds."""
        measured = dict(metrics)
        self._hand_over(lambda tracker: tracker.log_eval(step, measured))

    def close(self) -> None:
        """Wait until everything is delivered and the tracker is closed, `flush_seconds` at most; then leave it."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(self._flush_seconds)
        self._raise_what_it_raised()
        if self._thread.is_alive():
            raise TrackerLostError(
                f"it did not take everything within {self._flush_seconds:g} s at the end of the run and was left; "
                "metrics.jsonl is complete"
            )

    def _hand_over(self, call: _Call) -> None:
        self._raise_what_it_raised()
        with self._changed:
            is_full = len(self._calls) >= self._max_waiting
            if is_full:
                self._is_closing = True
            else:
                self._calls.append(call)
            self._changed.notify()
        if is_full:
            raise TrackerLostError(f"{self._max_waiting:,} calls wait for it; metrics.jsonl is complete")

    def _raise_what_it_raised(self) -> None:
        if self._end.error is not None:
            raise TrackerLostError(_in_words(self._end.error)) from self._end.error

    def _deliver(self) -> None:
        with self._end:
            while (call := self._next()) is not None:
                call(self._tracker)
                self._is_started.set()  # the first call is the start
            self._tracker.close()
        self._is_started.set()

    def _next(self) -> _Call | None:
        """The call that has waited longest; None when there is none and none will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._is_closing)
            return self._calls.popleft() if self._calls else None


class _End:
    """What a thread ended with. Whatever a foreign tracker raises stops here and is told by the thread that trains."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.error = error
        return True


def _in_words(error: BaseException) -> str:
    """The message of known kinds of errors; the name of others before it."""
    if isinstance(error, OSError | ImportError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
