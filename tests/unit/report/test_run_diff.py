"""What differs between two runs: settings, derived values, rows, versions; and their results."""

from __future__ import annotations

import json
import shutil

import pytest

from whet.recipe import parse_recipe
from whet.report.run_diff import find_differences, side_of_recipe, side_of_run

RECIPE = "name: a\noutput: runs/a\ndata: {train: [{source: a.jsonl}]}\noptim: {lr: 1e-3}\n"


@pytest.fixture
def runs(make_run, tmp_path):
    """Two copies of one run, the second a little different in every group."""
    first = make_run()
    (first / "recipe.yaml").write_text(RECIPE)
    for name, document in {
        "run_plan.json": {"total_steps": 10, "micro_batch": 4},
        "data.json": {"train": {"fingerprint": "f" * 8, "num_rows": 9}, "notes": ["said"]},
        "environment.json": {"torch": "2.13", "cores": 2},
        "model.json": {"id": "m", "weights_sha256": "1"},
        "summary.json": {"status": "finished", "steps": 10, "last_train_loss": 0.5},
    }.items():
        (first / name).write_text(json.dumps(document))
    second = tmp_path / "second"
    shutil.copytree(first, second)
    (second / "recipe.yaml").write_text(RECIPE.replace("1e-3", "5e-4"))
    (second / "run_plan.json").write_text(json.dumps({"total_steps": 12, "micro_batch": 4, "num_lanes": 2}))
    (second / "data.json").write_text(json.dumps({"train": {"fingerprint": "0" * 8, "num_rows": 9}, "notes": []}))
    (second / "environment.json").write_text(json.dumps({"torch": "2.14", "cores": 2}))
    return first, second


def test_a_run_does_not_differ_from_itself(runs):
    assert find_differences(side_of_run(runs[0]), side_of_run(runs[0])) == ()


def test_each_differing_value_is_told_once_with_its_group(runs):
    found = find_differences(*map(side_of_run, runs))
    assert [(each.group, each.name, each.first, each.second) for each in found] == [
        ("recipe", "optim.lr", 1e-3, 5e-4),
        ("plan", "total_steps", 10, 12),
        ("plan", "num_lanes", None, 2),
        ("data", "train.fingerprint", "f" * 8, "0" * 8),
        ("environment", "torch", "2.13", "2.14"),
    ]


def test_results_stand_beside_each_other_verdicts_included(runs):
    results = side_of_run(runs[0]).results
    assert results["steps"] == 10 and results["last_train_loss"] == 0.5
    assert results["sums.verdict"] in ("better", "worse", "not distinguishable")


def test_of_a_recipe_that_has_not_run_only_what_is_known_of_its_plan_is_compared(runs):
    recipe = side_of_recipe(parse_recipe(RECIPE), "a.yaml", {"total_steps": 11})
    found = find_differences(recipe, side_of_run(runs[0]))
    assert [(each.group, each.name) for each in found] == [("plan", "total_steps")]


def test_lists_of_values_are_one_value_and_lists_of_sections_many(runs):
    other = parse_recipe(RECIPE, overrides=["adapter.targets=[q_proj, v_proj]", "data.train.1.source=b.jsonl"])
    found = find_differences(side_of_recipe(parse_recipe(RECIPE), "a", {}), side_of_recipe(other, "b", {}))
    names = {each.name: each.second for each in found}
    assert names["adapter.targets"] == ["q_proj", "v_proj"] and names["data.train.1.source"] == "b.jsonl"


def test_a_damaged_file_is_a_problem_and_no_error(runs):
    (runs[0] / "recipe.yaml").write_text("name: [")
    side = side_of_run(runs[0])
    assert any("recipe.yaml" in problem for problem in side.problems) and side.groups["recipe"] == {}
