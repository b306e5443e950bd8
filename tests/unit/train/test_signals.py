"""The first signal is a request, the next one ends at once, and afterwards everything is as before."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from whet.errors import InterruptedRunError, PeerLostError
from whet.train.signals import interruptible, listening

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("first", ALL)
@pytest.mark.parametrize("second", ALL[:2])
def test_the_first_signal_asks_and_the_second_ends_at_once(first, second):
    before = [signal.getsignal(s) for s in ALL]
    with pytest.raises(InterruptedRunError) as caught, interruptible(), listening() as stop:
        assert not stop.is_set
        os.kill(os.getpid(), first)
        assert stop.is_set and stop.signal_name == first.name
        os.kill(os.getpid(), second)
        raise AssertionError("the second signal did not end the run")
    assert caught.value.exit_code == 75 and "same command" in caught.value.mend
    assert [signal.getsignal(s) for s in ALL] == before


@pytest.mark.parametrize("number", ALL)
def test_outside_the_loop_the_first_signal_ends_the_run_with_75(number):
    with pytest.raises(InterruptedRunError), interruptible():
        os.kill(os.getpid(), number)
        raise AssertionError("not stopped")


def test_a_rank_that_leaves_because_another_is_lost_says_so_though_it_is_told_to_stop_on_its_way():
    loss = PeerLostError("rank 1 is gone")
    torchs = RuntimeError("connection closed by peer")
    with pytest.raises(PeerLostError) as caught, interruptible():
        try:
            raise loss from torchs
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("not stopped")
    assert caught.value is loss and loss.__cause__ is torchs


def test_an_error_that_was_dealt_with_is_not_told_in_place_of_the_stop():
    with pytest.raises(InterruptedRunError), interruptible():
        try:
            raise PeerLostError("rank 1 is gone")
        except PeerLostError:
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not stopped")


def test_in_another_thread_nothing_is_installed():
    before = [signal.getsignal(s) for s in ALL]
    seen = []

    def listen():
        with listening() as stop:
            seen.append((stop.is_set, [signal.getsignal(s) for s in ALL] == before))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


def test_under_nohup_the_end_of_the_terminal_is_not_heard():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(), listening() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_says_its_end_twice_asks_once():
    with interruptible(), listening() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal_name == "SIGHUP"
