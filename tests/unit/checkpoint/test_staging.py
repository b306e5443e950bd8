from __future__ import annotations

import pytest
import torch

from whet.checkpoint.staging import Staging


def test_a_copy_keeps_its_values_when_the_tensors_move_on():
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    step = torch.tensor(3.0)
    held = Staging().copy({"w": {"a": weight, "t": weight.T}, "o": {"step": step}})()
    with torch.no_grad():
        weight.add_(1)
        step.add_(1)
    assert held["w"]["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and held["w"]["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert float(held["o"]["step"]) == 3.0
    assert not held["w"]["a"].requires_grad


class OnGpu(torch.Tensor):
    """A tensor of the CPU that says that it lies on a GPU."""

    is_cuda = True
    __torch_function__ = torch._C._disabled_torch_function_impl


@pytest.fixture
def noted(monkeypatch):
    """What was done in order: memory asked for, copies, and events with the thread that waits for them."""
    notes, empty, copy = [], torch.empty, torch.Tensor.copy_

    class Event:
        def record(self):
            notes.append("event")

        def synchronize(self):
            notes.append("waited")

    def get(shape, *, dtype, pin_memory):
        assert pin_memory
        notes.append(f"pinned {tuple(shape)}")
        return empty(shape, dtype=dtype)

    def begin(target, source, non_blocking=False):
        notes.append("copy" if non_blocking else "copy that is waited for")
        return copy(target, source)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", get)
    monkeypatch.setattr(torch.Tensor, "copy_", begin)
    return notes


def state_of(value):
    a, b = (torch.full(shape, float(value)).as_subclass(OnGpu) for shape in ((2, 3), (4,)))
    return {"weights": {"a": a}, "optimizer": {"a": b, "step": torch.tensor(float(value))}}


def test_from_a_gpu_nothing_is_waited_for_until_the_copy_is_written(noted):
    held = Staging().copy(state_of(1))
    assert noted == ["pinned (2, 3)", "copy", "pinned (4,)", "copy", "event"]
    noted.clear()
    assert held()["weights"]["a"].tolist() == [[1.0] * 3] * 2
    assert noted == ["waited"]


def test_pinned_memory_is_kept_from_copy_to_copy_and_got_anew_for_another_shape(noted):
    staging = Staging()
    assert staging.new_bytes(state_of(1)) == 24 + 16 + 4
    first = staging.copy(state_of(1))()
    assert staging.new_bytes(state_of(2)) == 4
    noted.clear()
    second = staging.copy(state_of(2))()
    assert noted == ["copy", "copy", "event", "waited"]
    assert second["weights"]["a"] is first["weights"]["a"]
    assert second["optimizer"]["step"] is not first["optimizer"]["step"]
    assert second["optimizer"]["a"].tolist() == [2.0] * 4 and float(second["optimizer"]["step"]) == 2.0
    other = {"weights": {"a": torch.zeros(5).as_subclass(OnGpu)}}
    assert staging.copy(other)()["weights"]["a"].tolist() == [0.0] * 5
