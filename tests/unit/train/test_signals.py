"""The first signal is a request, the next one ends at once, and afterwards everything is as before."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from whet.errors import InterruptedRunError
from whet.train.signals import interruptible, listening

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("first", BOTH)
@pytest.mark.parametrize("second", BOTH)
def test_the_first_signal_asks_and_the_second_ends_at_once(first, second):
    before = [signal.getsignal(s) for s in BOTH]
    with pytest.raises(InterruptedRunError) as caught, interruptible(), listening() as stop:
        assert not stop.is_set
        os.kill(os.getpid(), first)
        assert stop.is_set and stop.signal_name == first.name
        os.kill(os.getpid(), second)
        raise AssertionError("the second signal did not end the run")
    assert caught.value.exit_code == 75 and "same command" in caught.value.mend
    assert [signal.getsignal(s) for s in BOTH] == before


@pytest.mark.parametrize("number", BOTH)
def test_outside_the_loop_the_first_signal_ends_the_run_with_75(number):
    with pytest.raises(InterruptedRunError), interruptible():
        os.kill(os.getpid(), number)
        raise AssertionError("not stopped")


def test_in_another_thread_nothing_is_installed():
    before = [signal.getsignal(s) for s in BOTH]
    seen = []

    def listen():
        with listening() as stop:
            seen.append((stop.is_set, [signal.getsignal(s) for s in BOTH] == before))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [(False, True)]
