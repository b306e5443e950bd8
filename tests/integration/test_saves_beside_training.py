"""A slow or failing disk under a run that goes on: the command line in processes of its own.

Checkpoints are written by a thread; here its writing is slowed down, broken or killed, and the run must end as if
nothing had been, or say what failed.
"""

from __future__ import annotations

import json
import signal

import pytest

from whet.checkpoint.load import newest_checkpoint
from whet.checkpoint.names import list_steps

pytestmark = pytest.mark.slow

SLOW_SECONDS = 0.15
# every file of a checkpoint takes its time to reach the disk: more than a second for each checkpoint
SLOW = f"""
import sys, time
from whet.checkpoint import save
real = save.sync_file
save.sync_file = lambda path: (time.sleep({SLOW_SECONDS}), real(path))[1]
from whet.cli.main import main
sys.argv[0] = "whet"
main()
"""
BROKEN = """
import errno, sys
from whet.checkpoint import save
real = save.write_manifest
def write_manifest(folder, *, step):
    if step == 3:
        raise OSError(errno.EIO, "Input/output error")
    return real(folder, step=step)
save.write_manifest = write_manifest
from whet.cli.main import main
sys.argv[0] = "whet"
main()
"""


def test_a_slow_disk_does_not_hold_the_steps_up(workplace, uninterrupted):
    workplace.write_recipe(train={"save_every": 4})
    process = workplace.start("train", str(workplace.recipe), program=("-c", SLOW))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    steps = workplace.steps()
    # step 5 is made beside the first write, and what a crash may not cost is waited for after it
    assert {s["step"] for s in steps if s["save_seconds"] > SLOW_SECONDS / 4} <= {6}
    run = workplace.folder / "run"
    assert list_steps(run) == [8, 4]
    assert workplace.trajectory() == uninterrupted.trajectory
    assert workplace.hashes() == uninterrupted.hashes
    # the second one was waited for, first for its forerunner and at the end for itself
    summary = json.loads((run / "summary.json").read_text())
    assert summary["seconds_by_part"]["save"] > SLOW_SECONDS


def test_killed_in_the_middle_of_a_write_beside_training_the_run_ends_as_if_never_stopped(workplace, uninterrupted):
    run = workplace.folder / "run"

    def is_writing_the_third():
        return (run / "checkpoint-2").exists() and list(run.glob(".checkpoint-3.*.tmp"))

    process = workplace.start("train", str(workplace.recipe), program=("-c", SLOW))
    workplace.wait_until(is_writing_the_third, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert workplace.last_step() >= 3, "training did not go on while checkpoint-3 was written"
    checkpoint, notes = newest_checkpoint(run)
    assert checkpoint is not None and (checkpoint.step, notes) == (2, [])
    said = workplace.train()
    assert "continuing after step 2 of 8" in said
    assert not list(run.glob(".*.tmp"))
    assert workplace.trajectory() == uninterrupted.trajectory
    assert workplace.hashes() == uninterrupted.hashes


def test_a_write_that_fails_ends_the_run_with_its_folder_named_and_the_run_can_go_on(workplace, uninterrupted):
    run = workplace.folder / "run"
    process = workplace.start("train", str(workplace.recipe), program=("-c", BROKEN))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 5, said
    assert f"{run / 'checkpoint-3'}: could not be saved" in said and "Input/output error" in said
    assert "older checkpoints are untouched" in said and "Traceback" not in said
    assert list_steps(run) == [2, 1] and not (run / "summary.json").exists()
    assert workplace.last_step() <= 5
    workplace.train()
    assert workplace.trajectory() == uninterrupted.trajectory
    assert workplace.hashes() == uninterrupted.hashes


def test_stopped_by_a_signal_the_run_leaves_when_its_checkpoint_is_whole(workplace, uninterrupted):
    process = workplace.start("train", str(workplace.recipe), program=("-c", SLOW))
    workplace.wait_until(lambda: workplace.last_step() >= 2, process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75, said
    checkpoint, notes = newest_checkpoint(workplace.folder / "run")
    assert checkpoint is not None and (checkpoint.step, notes) == (workplace.last_step(), [])
    assert not list((workplace.folder / "run").glob(".*.tmp"))
    workplace.train()
    assert workplace.hashes() == uninterrupted.hashes
