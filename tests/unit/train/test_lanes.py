"""Passes side by side: the numbers of passes one after the other, whatever lane is faster, and no more in memory."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest
import torch
from tiny import LORA, build_training, make_plan, make_samples, run_steps, tiny_llama, values

from whet.train.lanes import Lanes
from whet.train.laps import Laps

SAMPLES = make_samples([7, 14, 9, 5, 26, 3, 11, 8])


def _training(num_lanes, *, dtype=torch.float64, adapter=LORA):
    plan = make_plan(len(SAMPLES), micro_batch=1, global_batch=4, total_steps=4)
    training = build_training(tiny_llama(dtype), SAMPLES, plan, adapter=adapter)
    return dataclasses.replace(training, lanes=Lanes(num_lanes, num_lanes) if num_lanes > 1 else None)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("num_lanes", [2, 3])
def test_lanes_change_no_bit_of_losses_and_weights(num_lanes, dropout):
    adapter = dataclasses.replace(LORA, dropout=dropout)
    runs = [_training(lanes, adapter=adapter) for lanes in (1, num_lanes)]
    records = [[(r.loss, r.grad_norm) for r in run_steps(run)] for run in runs]
    assert records[0] == records[1]
    for one, other in zip(*(values(run) for run in runs), strict=True):
        assert torch.equal(one, other)


def test_no_more_passes_are_under_way_than_there_are_lanes():
    now, most, lock = [0], [0], threading.Lock()
    both = threading.Barrier(2, timeout=20)

    def one_pass(batch, laps, backward):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        both.wait()  # hangs unless two passes run at the same time
        with lock:
            now[0] -= 1
        return torch.tensor(float(batch))

    lanes = Lanes(2, 2)
    losses = [float(loss) for loss in lanes.run(list(range(6)), one_pass, [], Laps())]
    lanes.close()
    assert losses == [0, 1, 2, 3, 4, 5] and most == [2]


def test_gradients_are_added_in_the_order_of_the_passes_and_the_seconds_count_once():
    weight = torch.zeros(1, dtype=torch.float32, requires_grad=True)
    parts = [1e8, 1.0, -1e8, 1.0]  # the sum in float32 depends on the order

    def one_pass(batch, laps, backward):
        with laps("forward"):
            time.sleep(0.2 if batch == 0 else 0.02)
        backward(weight.sum() * parts[batch])
        return torch.zeros(())

    laps, started = Laps(), time.monotonic()
    lanes = Lanes(2, 2)
    list(lanes.run(range(4), one_pass, [weight], laps))
    lanes.close()
    expected = torch.zeros(1)
    for part in parts:
        expected += part
    assert torch.equal(weight.grad, expected)
    times = laps.take(time.monotonic() - started)
    assert 0.12 <= times["forward_seconds"] <= times["seconds"]


def test_an_error_in_a_lane_reaches_the_caller():
    def one_pass(batch, laps, backward):
        raise MemoryError("no room")

    lanes = Lanes(2, 2)
    with pytest.raises(MemoryError, match="no room"):
        list(lanes.run(range(3), one_pass, [], Laps()))
    lanes.close()


def test_threads_are_shared_out_and_the_callers_stay():
    before = torch.get_num_threads()
    lanes = Lanes(2, 4)
    seen = []
    list(lanes.run(range(4), lambda *_: seen.append(torch.get_num_threads()) or torch.zeros(()), [], Laps()))
    lanes.close()
    assert seen == [2] * 4 and torch.get_num_threads() == before


def test_after_an_error_no_pass_is_under_way():
    ended, has_begun, may_end = [], threading.Event(), threading.Event()

    def one_pass(batch, laps, backward):
        if batch == 0:
            has_begun.wait(20)
            raise MemoryError("no room")
        has_begun.set()
        may_end.wait(20)
        ended.append(batch)
        return torch.zeros(())

    lanes = Lanes(2, 2)
    passes = lanes.run(range(6), one_pass, [], Laps())
    threading.Timer(0.2, may_end.set).start()
    with pytest.raises(MemoryError):
        list(passes)
    assert ended == [1], "the pass beside it is waited for, and no other begins"
    lanes.close()
