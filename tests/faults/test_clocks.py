"""Clocks that jump and times of files that lie: only stamps for people change.

The newest checkpoint is the one of the highest step that verifies, and durations come from the monotonic clock.
"""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path

import pytest
from altered_programs import DAY_SECONDS
from forked_runs import ForkedRuns
from workplace import Uninterrupted, Workplace

SOURCES = Path(__file__).parents[2] / "src" / "whet"
STAMPS = {
    "checkpoint/lock.py": "since when a folder is held, for people",
    "parallel/rank_log.py": "beside each line of a rank's log",
    "parallel/status.py": "when a status was written; decides nothing but which of several errors came first",
    "launch/nemo.py": "makes the name of a job unique",
    "tracking/mlflow.py": "when a value was told, as MLflow wants to know",
    "cli/runs.py": "when a run last changed, in a list",
}
"""who may ask the clock of the wall, and what for"""
WALL = {("time", "time"), ("time", "time_ns"), ("time", "strftime"), ("time", "localtime"), ("time", "ctime")}
WALL |= {(name, call) for name in ("datetime", "date") for call in ("now", "utcnow", "today")}


def asks_the_wall_clock(path: Path) -> bool:
    calls = (node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    attributes = (call for call in calls if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name))
    return any((call.value.id, call.attr) in WALL for call in attributes)  # type: ignore[attr-defined]


def test_the_clock_of_the_wall_is_asked_for_stamps_alone(outcome):
    asking = {path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*.py") if asks_the_wall_clock(path)}
    odd = sorted(asking - set(STAMPS))
    outcome(fault="durations and decisions by a clock that jumps", group="environment", tries=1, held=int(not odd),
            note="read from the source: only stamps ask it")  # fmt: skip
    assert odd == [], "is it a stamp? then tell here what for; a duration comes from time.monotonic()"


@pytest.mark.fault
@pytest.mark.timeout(1500)
def test_a_clock_that_jumps_by_a_day_at_every_look_changes_stamps_alone(
    workplace: Workplace, uninterrupted: Uninterrupted, forked: ForkedRuns, outcome
):
    run = uninterrupted.copy_to(workplace)
    shutil.rmtree(run / "checkpoint-8")
    for number, path in enumerate([run / "checkpoint-6", run / "checkpoint-7"]):  # the older one is written last
        stamp = 2e9 - number * 30 * DAY_SECONDS
        for each in [*path.iterdir(), path]:
            os.utime(each, (stamp, stamp))
    ended = forked.run(
        "train", str(workplace.recipe), program="altered_programs:jumping_clock", folder=workplace.folder,
        environment=workplace.environment,
    )  # fmt: skip
    equal = workplace.hashes() == uninterrupted.hashes and workplace.trajectory() == uninterrupted.trajectory
    seconds = [step["seconds"] for step in workplace.steps()]
    is_newest = "continuing after step 7 of 8" in ended.said
    held = ended.code == 0 and equal and is_newest and all(0 < each < DAY_SECONDS / 24 for each in seconds)
    outcome(
        fault="the clock jumps by a day, forward and back; times of checkpoints in the wrong order",
        group="environment",
        tries=1,
        held=int(held),
        lost="nothing",
        note="the same final SHA-256; steps last what they last",
    )
    assert held, ended.said
