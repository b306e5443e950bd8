from __future__ import annotations

import threading
import time

import pytest
import torch

from whet.data.step_rows import StepRows
from whet.train.prefetch import NUM_AHEAD, Prefetch

CPU = torch.device("cpu")


def rows_of(step):
    return StepRows(step=step, batches=(), sample_ids=(), num_tokens=0, num_taught=1, batch_hash=str(step))


def num_threads():
    return sum(thread.name.startswith("rows") for thread in threading.enumerate())


def test_steps_come_in_order_from_another_thread():
    readers = []

    def read(step):
        readers.append((step, threading.current_thread() is threading.main_thread()))
        time.sleep(0.001 * (3 - step % 3))
        return rows_of(step)

    with Prefetch(read, range(4, 9), CPU) as rows:
        assert [rows(step).batch_hash for step in range(4, 9)] == list("45678")
    assert readers == [(step, False) for step in range(4, 9)]


def test_no_more_than_two_steps_are_read_ahead():
    begun = []

    def read(step):
        begun.append(step)
        return rows_of(step)

    with Prefetch(read, range(10), CPU) as rows:
        for step in range(4):
            time.sleep(0.02)
            assert begun == list(range(min(10, step + NUM_AHEAD)))
            rows(step)


def test_the_next_step_is_read_while_the_present_one_is_computed():
    was_read = threading.Event()

    def read(step):
        if step == 1:
            was_read.set()
        return rows_of(step)

    with Prefetch(read, range(3), CPU) as rows:
        rows(0)
        assert was_read.wait(5), "step 1 was not read before it was asked for"


def test_an_error_of_reading_comes_out_at_its_step_with_its_cause():
    def read(step):
        if step == 2:
            try:
                raise OSError("the disk is gone")
            except OSError as error:
                raise ValueError("step 2") from error
        return rows_of(step)

    with Prefetch(read, range(5), CPU) as rows:
        assert [rows(0).step, rows(1).step] == [0, 1]
        with pytest.raises(ValueError, match="step 2") as caught:
            rows(2)
    assert isinstance(caught.value.__cause__, OSError)
    assert num_threads() == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_thread_ends_with_the_loop_whatever_ends_it(error):
    with pytest.raises(error), Prefetch(rows_of, range(100), CPU) as rows:
        rows(0)
        raise error
    assert num_threads() == 0


def test_reading_leaves_torchs_random_state_alone():
    before = torch.get_rng_state()
    with Prefetch(rows_of, range(3), CPU) as rows:
        for step in range(3):
            rows(step)
    assert torch.equal(before, torch.get_rng_state())


def test_a_run_without_steps_left_reads_nothing():
    with Prefetch(lambda step: pytest.fail("read"), range(6, 6), CPU):
        pass


def test_going_to_another_step_forgets_what_was_read_ahead():
    readers, has_failed = [], threading.Event()

    def read(step):
        readers.append(step)
        if step == 2 and not has_failed.is_set():
            has_failed.set()
            raise OSError("a disk that fails once")
        return rows_of(step)

    with Prefetch(read, range(6), CPU) as rows:
        rows(0)
        assert has_failed.wait(60), "step 2 was not read ahead"
        rows.go_to(range(1, 6))
        assert [rows(step).step for step in range(1, 6)] == [1, 2, 3, 4, 5]
    assert readers == [0, 1, 2, 1, 2, 3, 4, 5]
