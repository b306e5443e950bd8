from __future__ import annotations

import threading

import pytest
import torch

from whet.checkpoint.background import Background, copy_of


def test_a_copy_keeps_its_values_when_the_tensors_move_on():
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    step = torch.tensor(3.0)
    held = copy_of({"w": {"a": weight, "t": weight.T}, "o": {"step": step}})
    with torch.no_grad():
        weight.add_(1)
        step.add_(1)
    assert held["w"]["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and held["w"]["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert float(held["o"]["step"]) == 3.0
    assert not held["w"]["a"].requires_grad


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
