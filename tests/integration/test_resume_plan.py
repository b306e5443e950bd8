"""A run that chose its passes from the free memory goes on with the same passes, however much is free then."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow

PLANNED = {"batch": {"global_size": 8, "micro_size": "auto"}}
KEPT = ("micro_batch", "accumulation", "recompute")


def planned(workplace, run="run"):
    plan = json.loads((workplace.folder / run / "run_plan.json").read_text())
    return {name: plan[name] for name in KEPT}


def test_a_continued_run_keeps_the_plan_of_a_tighter_machine_and_ends_bit_for_bit_the_same(workplace):
    tight, roomy = {"memory_gb": 0.05}, {"memory_gb": 1000.0}
    workplace.write_recipe(**PLANNED, train=tight, output=str(workplace.folder / "whole"))
    said = workplace.train()
    assert "more than there is" in said and "memory: " in said.rpartition("GB were predicted")[0]
    whole = planned(workplace, "whole")
    assert whole["recompute"] == "full" and whole["accumulation"] > 1

    workplace.write_recipe(**PLANNED, train=tight)
    workplace.kill_at(3)
    workplace.write_recipe(**PLANNED, train=roomy)
    said = workplace.train()
    assert "continuing after step" in said
    assert planned(workplace) == whole
    assert workplace.trajectory() == workplace.trajectory("whole")
    assert workplace.hashes() == workplace.hashes("whole")


def test_with_room_the_step_is_one_pass_without_recompute(workplace):
    workplace.write_recipe(**PLANNED, train={"max_steps": 1, "epochs": 1})
    said = workplace.train()
    assert "memory: predicts " in said and "8 samples (up to " in said
    assert planned(workplace)["micro_batch"] == 8
    environment = json.loads((workplace.folder / "run" / "environment.json").read_text())
    assert environment["allocator"] == "glibc, freed memory kept"
    workplace.environment["WHET_ALLOCATOR"] = "system"
    workplace.train("--fresh")
    environment = json.loads((workplace.folder / "run" / "environment.json").read_text())
    assert environment["allocator"] == "system"
