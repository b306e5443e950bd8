"""A run that was killed, stopped or sent back equals the run that was left alone, to the last bit.

Compared are SHA-256 sums of the last checkpoint (weights and Adam's moments) and of the final weights, and loss,
learning rate, gradient norm and batch hash of every step. The recipe has dropout, shuffling, two epochs and two
micro-batches per step.
"""

from __future__ import annotations

import signal

import pytest

pytestmark = pytest.mark.slow

STEPS_PER_EPOCH, TOTAL_STEPS = 4, 8


def assert_equal_runs(workplace, uninterrupted):
    assert [record["step"] for record in workplace.steps()] == list(range(1, TOTAL_STEPS + 1))
    assert workplace.trajectory() == uninterrupted.trajectory
    assert workplace.hashes() == uninterrupted.hashes


def test_killed_again_and_again_the_run_ends_as_if_never_stopped(workplace, uninterrupted):
    """SIGKILL after the first step, within the first epoch, at its end, and before the last step."""
    for step in (1, 2, STEPS_PER_EPOCH, TOTAL_STEPS - 1):
        workplace.kill_at(step)
        assert not (workplace.folder / "run" / "summary.json").exists()
    workplace.train()
    assert_equal_runs(workplace, uninterrupted)
