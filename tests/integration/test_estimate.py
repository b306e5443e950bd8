"""`whet estimate` beside a run of the same recipe: rows read as they are, real passes where they are asked for."""

from __future__ import annotations

import json

import pytest


@pytest.mark.slow
def test_measured_passes_and_the_run_agree_on_steps_tokens_and_the_prediction(workplace):
    workplace.write_recipe(train={"keep": 99})
    code, said = workplace.run("estimate", str(workplace.recipe), "--measure", "--json", stderr=None)
    assert code == 0, said
    found = json.loads(said)
    assert not (workplace.folder / "run").exists(), "an estimate leaves no run folder"

    workplace.train("--no-evaluate")
    plan, summary = (
        json.loads((workplace.folder / "run" / name).read_text(encoding="utf-8"))
        for name in ("run_plan.json", "summary.json")
    )
    steps = workplace.steps()
    assert found["time"]["num_steps"] == plan["total_steps"] == len(steps)
    assert found["time"]["num_tokens"] == sum(step["num_tokens"] for step in steps)
    assert (found["step"]["micro_batch"], found["step"]["recompute"]) == (plan["micro_batch"], plan["recompute"])
    assert found["time"]["is_measured"] and found["measured"]["num_steps"] == 3
    saved = [path for path in (workplace.folder / "run").glob("checkpoint-*") if path.name != "checkpoint-best"]
    assert found["checkpoints"]["num"] == len(saved) and found["checkpoints"]["seconds"][0] > 0
    least, most = found["time"]["seconds_per_step"]
    assert 0 < least == most

    # all but the process itself, which the estimate assumes and the run has measured
    assert summary["predicted_memory_parts"] == plan["predicted_memory_parts"]
    parts = {name: part["bytes"] for name, part in found["memory"]["parts"].items()}
    assert {**plan["predicted_memory_parts"], "process": 0} == {**parts, "process": 0}


@pytest.mark.slow
def test_a_run_that_was_fitted_to_a_time_is_the_run_of_as_many_steps(workplace):
    """Timing steps and a checkpoint moves neither weights nor random state, and leaves nothing in the folder."""
    workplace.write_recipe(train={"save_every": None, "epochs": 1000, "fit_seconds": 1.0})
    said = workplace.train("--no-evaluate")
    run = workplace.folder / "run"
    plan = json.loads((run / "run_plan.json").read_text(encoding="utf-8"))
    steps = plan["total_steps"]
    assert steps == len(workplace.steps()) and f": {steps} steps fit the time budget" in said
    assert steps * plan["measured_seconds_per_step"] <= 1.0 or steps == 1
    assert not list(run.glob(".*.tmp"))

    workplace.write_recipe(output=str(workplace.folder / "counted"), train={"epochs": 1000, "max_steps": steps})
    workplace.train("--no-evaluate")
    assert workplace.trajectory() == workplace.trajectory("counted")
    assert workplace.hashes() == workplace.hashes("counted")
