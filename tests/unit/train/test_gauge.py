import sys
from types import ModuleType

import pytest
import torch
from tracked_steps import record

from whet.allocator import held_bytes
from whet.train.gauge import Gauge


class NvmlError(Exception):
    """The kind that the driver's library raises."""


@pytest.fixture
def driver(monkeypatch):
    module = ModuleType("pynvml")
    module.NVMLError = NvmlError
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * 10**9)


def test_on_a_processor_it_is_the_memory_of_this_process_and_no_gpu():
    told = Gauge(torch.device("cpu")).on(record(1, 1.0))
    assert told.gpu_percent is None and told.loss == 1.0
    assert told.memory_bytes == pytest.approx(held_bytes(), rel=0.2)


def test_the_driver_is_asked_once_a_second(driver, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: asked.append(device) or 90 + len(asked))
    now = [0.0]
    of_gpu = Gauge(torch.device("cuda", 0), clock=lambda: now[0])
    found = []
    for seconds in (0.0, 0.4, 0.9, 1.1, 1.5):
        now[0] = seconds
        told = of_gpu.on(record(1, 1.0))
        found.append(told.gpu_percent)
        assert told.memory_bytes == 5 * 10**9
    assert found == [91, 91, 91, 92, 92]


@pytest.mark.parametrize("error", [NvmlError("not supported"), RuntimeError("driver not loaded"), ImportError()])
def test_a_driver_that_does_not_answer_is_asked_once_and_the_rest_is_told(driver, monkeypatch, error):
    num_asked = []

    def refuse(device):
        num_asked.append(device)
        raise error

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    now = [0.0]
    of_gpu = Gauge(torch.device("cuda", 0), clock=lambda: now[0])
    for seconds in (0.0, 2.0, 4.0):
        now[0] = seconds
        told = of_gpu.on(record(1, 1.0))
        assert told.gpu_percent is None and told.memory_bytes == 5 * 10**9
    assert len(num_asked) == 1
