"""`whet estimate` beside a run of the same recipe: rows read as they are, real passes where they are asked for."""

from __future__ import annotations

import json

import pytest


@pytest.mark.slow
def test_measured_passes_and_the_run_agree_on_steps_tokens_and_the_prediction(workplace):
    workplace.write_recipe()
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
    least, most = found["time"]["seconds_per_step"]
    assert 0 < least == most

    # all but the process itself, which the estimate assumes and the run has measured
    assert summary["predicted_memory_parts"] == plan["predicted_memory_parts"]
    parts = {name: part["bytes"] for name, part in found["memory"]["parts"].items()}
    assert {**plan["predicted_memory_parts"], "process": 0} == {**parts, "process": 0}
