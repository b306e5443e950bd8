"""A step on a GPU is bound by its products, its memory or its network, whichever takes longest; by closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whet.estimate.devices import DEVICES, network_of
from whet.estimate.memory import Job, Pass
from whet.estimate.scale import Rows, operations_per_token
from whet.estimate.time import Calibration, SavePace, Work, step_seconds
from whet.estimate.traffic import Sharing, calls

JOB = Job(
    num_layers=32, hidden=4096, intermediate=14_336, query_size=4096, key_size=1024, num_heads=32, vocab=128_256,
    num_base=8_030_261_248, num_trainable=83_886_080, trains_all=False, is_fused=True, narrow_values=224,
    compute_bytes=2, is_tied=False, device="cuda",
)  # fmt: skip
ROWS = Rows(mean_length=240, taught_share=0.6, tokens_per_pass=8192)
WORK = Work(
    job=JOB, rows=ROWS, largest=Pass(tokens=8192, taught=4915, probabilities=0), recompute="none", num_passes=2
)  # fmt: skip
ALONE = Sharing(strategy="replicate", num_ranks=1, shards=1, ranks_per_node=8)
H100 = DEVICES["h100"]


def test_large_passes_take_operations_over_what_is_reached_of_the_peak():
    expected = 2 * 8192 * operations_per_token(JOB, ROWS, "none") / (0.5 * 989e12)
    assert step_seconds(WORK, ALONE, H100, reached_share=0.5) == pytest.approx(expected)
    assert step_seconds(WORK, ALONE, H100, reached_share=0.25) == pytest.approx(2 * expected)


def test_a_pass_of_a_few_tokens_takes_as_long_as_reading_the_weights_twice():
    few = replace(WORK, rows=replace(ROWS, tokens_per_pass=8), largest=Pass(tokens=8, taught=5, probabilities=0))
    least = 2 * 2 * 8_030_261_248 * 2 / 3.35e12
    assert least < step_seconds(few, ALONE, H100, reached_share=0.5) < 1.2 * least


def test_ranks_wait_for_the_network_between_them():
    eight = Sharing(strategy="replicate", num_ranks=8, shards=1, ranks_per_node=8)
    waits = sum(call.seconds(network_of(H100)) for call in calls(JOB, eight, passes=2))
    alone = step_seconds(WORK, ALONE, H100, reached_share=0.5)
    assert step_seconds(WORK, eight, H100, reached_share=0.5) == pytest.approx(alone + waits) and waits > 0


def test_ranks_that_share_layers_share_their_operations_and_send_rows():
    two = replace(WORK, num_tensor_ranks=2)
    assert two.operations == WORK.operations / 2
    halved = step_seconds(WORK, ALONE, H100, reached_share=0.5) / 2
    assert step_seconds(two, ALONE, H100, reached_share=0.5) > halved


def test_a_checkpoint_costs_its_copy_and_what_the_step_beside_it_does_not_hide():
    pace = SavePace(copy_seconds=1e-9, write_seconds=5e-9)
    assert pace.waits(1e9, step_seconds=2.0) == pytest.approx((1 + 3, 1 + 5))
    assert pace.waits(1e9, step_seconds=9.0) == pytest.approx((1, 1 + 5))


def test_a_calibrated_machine_takes_as_long_as_its_rate_says_and_updates_once_a_step():
    calibration = Calibration(
        operations_per_second=WORK.operations / 7, pass_seconds=3.0, update_seconds=0.5, num_steps=3
    )  # fmt: skip
    assert calibration.step_seconds(WORK) == pytest.approx(7.5)
    twice = replace(WORK, num_passes=4)
    assert calibration.step_seconds(twice) == pytest.approx(14.5)
