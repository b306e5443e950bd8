"""Silence has an end, a slow line has none, and one failure is enough."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from whet.hub.patience import SilentHubError, all_in_parallel, within

_log = logging.getLogger("huggingface_hub.file_download")


def fetch(calls, folder: Path, silence_seconds: float = 0.3):
    return all_in_parallel(calls, num_parallel=2, folder=folder, silence_seconds=silence_seconds)


@pytest.fixture
def gate():
    """Holds back what waits for it, until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_results_come_in_the_order_of_the_calls(tmp_path):
    assert fetch([lambda i=i: i for i in range(9)], tmp_path) == list(range(9))


def test_the_first_error_is_raised_and_nothing_waited_for(tmp_path, gate):
    def fails():
        raise OSError("refused")

    with pytest.raises(OSError, match="refused"):
        fetch([gate.wait, fails], tmp_path, silence_seconds=60)


def test_who_waits_for_a_turn_does_not_begin_after_a_failure(tmp_path):
    begun = []

    def fails(number):
        begun.append(number)
        raise OSError("refused")

    with pytest.raises(OSError, match="refused"):
        fetch([lambda number=number: fails(number) for number in range(50)], tmp_path, silence_seconds=60)
    assert len(begun) <= 2, "as many as have a turn at the same time"


def test_silence_before_a_file_begins_is_given_up(tmp_path, gate):
    with pytest.raises(SilentHubError) as caught:
        fetch([gate.wait], tmp_path)
    assert caught.value.status is None


def test_a_file_that_is_being_received_without_complaint_is_waited_for(tmp_path, gate):
    """Ten megabytes on a slow line: nothing is seen on the disk meanwhile."""

    def receive():
        (tmp_path / "x.incomplete").touch()
        return gate.wait(1.0)

    assert fetch([receive], tmp_path) == [False]


@pytest.mark.parametrize(("complaint", "status"), [("ReadTimeout", None), ("HTTP Error 429 thrown while", 429)])
def test_a_file_of_which_the_library_complains_is_given_up(tmp_path, gate, complaint, status):
    def receive():
        threading.Event().wait(0.15)  # the folder has been looked at: the file is seen to come, with what is said of it
        (tmp_path / "x.incomplete").touch()
        _log.warning(complaint)
        return gate.wait(20)

    with pytest.raises(SilentHubError) as caught:
        fetch([receive], tmp_path)
    assert caught.value.status == status


def test_a_library_that_was_told_to_be_quiet_is_heard_all_the_same(tmp_path, gate, capfd):
    library = logging.getLogger("huggingface_hub")
    before = library.level
    library.setLevel(logging.ERROR)
    try:
        test_a_file_of_which_the_library_complains_is_given_up(tmp_path, gate, "HTTP Error 503 thrown while", 503)
        assert library.level == logging.ERROR
    finally:
        library.setLevel(before)
    assert "503" not in capfd.readouterr().err


def test_complaints_before_the_last_byte_do_not_count(tmp_path, gate):
    def receive():
        _log.warning("ReadTimeout")
        threading.Event().wait(0.15)
        (tmp_path / "x.incomplete").write_bytes(b"more")
        return gate.wait(0.8)

    assert fetch([receive], tmp_path) == [False]


def test_who_was_asked_to_wait_is_told_of_though_another_file_came_meanwhile(tmp_path, gate):
    """Asked to wait for minutes, the library says so once: before the bytes of another file, perhaps."""
    has_complained = threading.Event()

    def waits():
        _log.warning("HTTP Error 429 thrown while requesting GET http://hub/a")
        _log.warning("Rate limited. Waiting 301.0s before retry [Retry 1/5].")
        has_complained.set()
        return gate.wait(20)

    def receives():
        has_complained.wait(20)
        threading.Event().wait(0.25)
        (tmp_path / "b").write_bytes(b"whole")

    with pytest.raises(SilentHubError) as caught:
        fetch([waits, receives], tmp_path, silence_seconds=0.6)
    assert caught.value.status == 429


def test_what_is_told_of_a_silent_hub_is_the_last_failure_of_a_call_that_has_not_ended(tmp_path, gate):
    def comes_after_all():
        _log.warning("HTTP Error 503 thrown while requesting GET http://hub/a")
        (tmp_path / "a").write_bytes(b"whole")

    def is_silent():
        _log.warning("HTTP Error 503 thrown while requesting GET http://hub/b")
        _log.warning("'ReadTimeout' thrown while requesting GET http://hub/b")
        return gate.wait(20)

    with pytest.raises(SilentHubError) as caught:
        fetch([comes_after_all, is_silent], tmp_path)
    assert caught.value.status is None


def test_a_call_that_takes_too_long_is_left(gate):
    with pytest.raises(TimeoutError):
        within(0.1, gate.wait)
