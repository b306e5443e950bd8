"""The order of copies, events and waits, noted by stand-ins: without a GPU nothing else can be seen."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from tiny import make_samples

from whet.data.packing import pack
from whet.data.step_rows import StepRows
from whet.train import upload
from whet.train.prefetch import Prefetch
from whet.train.upload import Upload

SAMPLES = make_samples([5, 9, 4])


def rows_of(step):
    batches = (pack(SAMPLES[:2]), pack(SAMPLES[2:]))
    return StepRows(step=step, batches=batches, sample_ids=(), num_tokens=18, num_taught=9, batch_hash="")


@pytest.fixture
def noted(monkeypatch):
    """What is done with streams and events, in order; copies stay on the CPU."""
    notes = []

    class Stream:
        def __init__(self, device=None):
            self.name = "copies" if device is not None else "training"

        def wait_event(self, event):
            notes.append(f"{self.name} waits for event {event.number}")

    class Event:
        count = 0

        def record(self):
            Event.count += 1
            self.number = Event.count
            notes.append(f"event {self.number}")

    @contextmanager
    def stream(_stream):
        notes.append("in copies")
        yield
        notes.append("out of copies")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(upload, "to_device", lambda batch, device: notes.append(f"copy to {device}") or batch)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: notes.append(f"kept for {stream.name}"))
    return notes


def test_on_the_cpu_rows_stay_what_they_are():
    rows = rows_of(0)
    assert Upload(torch.device("cpu")).begin(rows).take() is rows


def test_copies_run_in_their_own_stream_and_training_waits_for_the_event_behind_them(noted):
    uploaded = Upload(torch.device("cuda")).begin(rows_of(0))
    assert noted == ["in copies", "copy to cuda", "copy to cuda", "event 1", "out of copies"]
    noted.clear()
    uploaded.take()
    num_tensors = 2 * sum(isinstance(getattr(pack(SAMPLES), name), torch.Tensor) for name in pack(SAMPLES).__slots__)
    assert noted == ["training waits for event 1"] + ["kept for training"] * num_tensors


def test_the_thread_that_reads_begins_the_copies_and_each_step_waits_for_its_own(noted):
    with Prefetch(rows_of, range(3), torch.device("cuda")) as rows:
        assert [rows(step).step for step in range(3)] == [0, 1, 2]
    waits = [note for note in noted if "waits" in note]
    assert waits == [f"training waits for event {n}" for n in (1, 2, 3)]
    assert noted.index("event 1") < noted.index(waits[0])
