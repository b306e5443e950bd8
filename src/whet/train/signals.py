"""Ctrl-C, SIGTERM and a terminal that goes away become a request: the step is finished and saved first. A second signal
ends at once. Under nohup, which makes the terminal's end unheard, the run goes on.

Ending at once is safe too: checkpoints are whole or absent.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from whet.errors import InterruptedRunError, PeerLostError


class StopRequest:
    """Set by a signal, read once per step."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    @property
    def is_set(self) -> bool:
        return self.signal_name is not None


def _asking_to_stop() -> tuple[signal.Signals, ...]:
    """The signals that ask for an end."""
    is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM) if is_nohup else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """While inside, SIGTERM and SIGHUP stop like Ctrl-C, and all leave as InterruptedRunError (exit 75).

    For the time outside the loop, where there is no step to finish, and for a second signal within it. A rank that ends
    because another is lost leaves as PeerLostError all the same: a launcher tells the others to stop just then.
    """
    before = {s: signal.signal(s, signal.default_int_handler) for s in _asking_to_stop()}
    try:
        yield
    except KeyboardInterrupt as request:
        if (loss := _loss_being_told(request)) is not None:
            raise loss from loss.__cause__
        raise InterruptedRunError(
            "stopped at once as asked; checkpoints and answers saved so far are whole",
            mend="give the same command again to continue",
        ) from request
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _loss_being_told(request: KeyboardInterrupt) -> PeerLostError | None:
    """The error that was on its way out when `request` came between."""
    error: BaseException | None = request
    while error is not None and not isinstance(error, PeerLostError):
        error = error.__context__
    return error


@contextmanager
def listening() -> Iterator[StopRequest]:
    """While inside, SIGINT, SIGTERM and SIGHUP set the request; outside the main thread nothing is installed."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {s: signal.getsignal(s) for s in _asking_to_stop()}

    def on_signal(number: int, _frame: FrameType | None) -> None:
        request.signal_name = signal.Signals(number).name
        for s, handler in before.items():
            # a terminal's end is told twice, by the system and by the shell
            signal.signal(s, signal.SIG_IGN if s == signal.SIGHUP else handler)

    for s in before:
        signal.signal(s, on_signal)
    try:
        yield request
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
