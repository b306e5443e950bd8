from __future__ import annotations

import threading

import pytest

from whet.checkpoint.background import Background


def test_a_job_is_done_beside_and_the_next_one_waits_for_it():
    writer, may_end, order = Background(), threading.Event(), []

    def first():
        may_end.wait(5)
        order.append("first")

    writer.start(first)
    assert not writer.is_done() and order == []
    threading.Timer(0.02, may_end.set).start()
    writer.start(lambda: order.append("second"))
    writer.wait()
    assert order == ["first", "second"] and writer.is_done()
    assert writer.close() is None


@pytest.mark.parametrize("ask", [Background.wait, Background.is_done, lambda w: w.start(lambda: None)])
def test_an_error_comes_out_where_one_asks_and_once(ask):
    writer, failed = Background(), threading.Event()

    def fail():
        failed.set()
        raise OSError("full")

    writer.start(fail)
    failed.wait(5)
    with pytest.raises(OSError, match="full"):
        while not ask(writer):
            pass
    writer.wait()
    assert writer.close() is None


def test_closing_waits_and_gives_the_error_back():
    writer = Background()

    def fail():
        raise OSError("full")

    writer.start(fail)
    assert str(writer.close()) == "full"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]
