"""Order and packs of a million rows take a few bytes for each row; benchmarks/many_rows.py has ten millions."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from tiny import make_plan

from whet.data.packing import padding_share
from whet.data.sampler import Order

pytestmark = pytest.mark.slow

NUM_ROWS = 1_000_000
LENGTHS = np.random.default_rng(0).integers(16, 2048, NUM_ROWS).astype(np.uint16)
CASES = {
    # what is kept of an epoch, and the most at a time while the next one is made
    "samples": ({}, 4.1, 8.2),
    "mixed": ({"source_sizes": (NUM_ROWS // 4, 3 * NUM_ROWS // 4), "weights": (1.0, 1.0)}, 4.1, 32),
    "packs": ({"unit": "packs", "capacity": 8192}, 7, 44),
}
"""unit -> settings of the order, and most bytes for each row"""


@pytest.mark.parametrize("unit", CASES)
def test_an_epoch_of_a_million_rows_is_a_few_bytes_for_each(unit):
    more, most_kept, most_at_a_time = CASES[unit]
    tracemalloc.start()
    try:
        order = Order(LENGTHS, seed=1, **more)
        plan = make_plan(order.num_units, micro_batch=4, global_batch=512, world_size=8)
        kept = tracemalloc.get_traced_memory()[0] / NUM_ROWS
        taken = sum(len(order.step(plan, step).indices) for step in (0, plan.steps_per_epoch - 1))
        next_epoch = order.step(plan, plan.steps_per_epoch)
        peak = tracemalloc.get_traced_memory()[1] / NUM_ROWS
    finally:
        tracemalloc.stop()
    assert taken > 512 and len(next_epoch.passes) == 128
    assert kept < most_kept and peak < most_at_a_time, (kept, peak)


def test_the_padding_of_a_million_rows_is_counted_without_a_loop_over_them():
    expected = 1 - sum(map(int, LENGTHS)) / sum(4 * int(LENGTHS[i : i + 4].max()) for i in range(0, NUM_ROWS, 4))
    assert padding_share(LENGTHS, 4) == pytest.approx(expected, rel=1e-12)
